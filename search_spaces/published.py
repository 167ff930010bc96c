"""Published checkpoints: read without executing anything, checked completely, converted to our names and back."""

from __future__ import annotations

import argparse
import hashlib
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from search_spaces.supernet import Supernet

WRAPPERS = ("state_dict", "model", "model_state_dict", "net")
OPTIONAL = "num_batches_tracked"  # not written by early versions of torch, and not read in eval mode
SAFETENSORS = ".safetensors"


class CheckpointError(ValueError):
    """A file of weights cannot be used; the first line of the message says why."""


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file.

    Args:
        tensors: by key, as in the file, without wrappers and without a common `module.` prefix.
        format: `safetensors` or `torch`.
        wrapper: the keys under which the tensors were found, joined by dots; empty for none.
        sha256: of the file.
    """

    tensors: Mapping[str, Tensor]
    format: str
    wrapper: str
    sha256: str


@dataclass(frozen=True)
class Mismatch:
    """What keeps a checkpoint from fitting a super-network; keys as in the file or as published."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshaped: tuple[str, ...]
    n_found: int

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshaped)

    def message(self, family: str, hint: str) -> str:
        """Returns one line that counts the problems, and then every one of them on a line of its own."""
        counts = [
            f"{len(keys)} {word}"
            for keys, word in (
                (self.missing, "missing"),
                (self.unexpected, "unexpected"),
                (self.misshaped, "mis-shaped"),
            )
            if keys
        ]
        lines = [f"the checkpoint must fit {family}, but has {', '.join(counts)} tensors{hint}; nothing was loaded."]
        lines += [f"  missing {key}" for key in self.missing]
        lines += [f"  unexpected {key}" for key in self.unexpected]
        lines += [f"  mis-shaped {text}" for text in self.misshaped]
        return "\n".join(lines)


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_checkpoint(path: str | Path, *, sha256: str | None = None) -> Checkpoint:
    """Returns the tensors of a safetensors file or of a torch checkpoint. Nothing in the file is executed.

    Args:
        path: the file.
        sha256: digest that the file must have; checked before it is opened.

    Raises:
        CheckpointError: no such file, another digest, truncated, pickled code, or something else than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"weights must be a file, but {path} does not exist.")
    digest = sha256_of(path)
    if sha256 is not None and digest != sha256.lower():
        raise CheckpointError(f"{path} must have the SHA-256 {sha256.lower()}, but has {digest}.")
    if path.suffix == SAFETENSORS:
        return Checkpoint(_read_safetensors(path), "safetensors", "", digest)
    content, wrapper = _read_torch(path), []
    while isinstance(content, Mapping) and not any(isinstance(value, Tensor) for value in content.values()):
        inner = next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        wrapper.append(inner)
        content = content[inner]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path} must hold a dictionary of tensors, but holds {_describe(content)}.")
    wrong = [key for key, value in content.items() if not isinstance(value, Tensor)]
    if wrong:
        raise CheckpointError(f"{path} must hold tensors only, but {wrong[0]!r} is {_describe(content[wrong[0]])}.")
    tensors = {str(key): value for key, value in content.items()}
    if all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return Checkpoint(tensors, "torch", ".".join(wrapper), digest)


def _describe(value: object) -> str:
    return (
        f"an empty {type(value).__name__}" if isinstance(value, Mapping) and not value else f"a {type(value).__name__}"
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} must be a complete safetensors file, but: {error}.") from error


def _read_torch(path: Path) -> Any:
    try:
        # fairseq's checkpoints carry their command line: a Namespace only holds what is in the file.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if found is None:
            raise CheckpointError(
                f"{path} must be a complete torch checkpoint, but it is broken or cut off."
            ) from error
        raise CheckpointError(
            f"{path} must hold tensors only, but asks for {found[1]}: pickled code is never executed."
        ) from error
    except (EOFError, RuntimeError, OSError, ValueError, KeyError, IndexError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} must be a complete torch checkpoint, but it is broken or cut off.") from error


def reduced(key: str) -> str:
    """Returns a key without what differs between published variants: doubled levels, `mobile_inverted_conv`."""
    parts: list[str] = []
    for part in key.replace(".mobile_inverted_conv.", ".conv.").split("."):
        if not parts or parts[-1] != part or part.isdigit():
            parts.append(part)
    return ".".join(parts)


def published_names(supernet: Supernet) -> dict[str, str]:
    """Returns our full tensor's name -> published key, for all tensors that published checkpoints hold."""
    names = {name: supernet.family.published_name(name) for name in supernet.tensors()}
    return {name: key for name, key in names.items() if key is not None}


def _short(supernet: Supernet, key: str) -> str:
    for pattern, replacement in supernet.family.published_variants.items():
        key = re.sub(pattern, replacement, key)
    return reduced(key)


def _wanted(supernet: Supernet) -> dict[str, tuple[str, list[str]]]:
    """Returns reduced key -> published key, and our names of the parts that it holds along dimension 0."""
    wanted: dict[str, tuple[str, list[str]]] = {}
    for name, key in published_names(supernet).items():
        wanted.setdefault(_short(supernet, key), (key, []))[1].append(name)
    return wanted


def compare(supernet: Supernet, tensors: Mapping[str, Tensor]) -> tuple[Mismatch, dict[str, Tensor]]:
    """Returns what does not fit, and our names -> tensors of what does.

    Args:
        supernet: into which the tensors should go.
        tensors: by published key, in any variant.
    """
    family = supernet.family
    wanted = _wanted(supernet)
    copies = {_short(supernet, copy): _short(supernet, of) for copy, of in family.published_copies.items()}
    ignored = [re.compile(pattern) for pattern in family.published_ignored]
    shapes = {name: tensor.shape for name, tensor in supernet.tensors().items()}
    unexpected: list[str] = []
    misshaped: list[str] = []
    found: dict[str, tuple[str, Tensor]] = {}  # reduced key -> key in the file, tensor
    for key, tensor in tensors.items():
        short = _short(supernet, key)
        short = copies.get(short, short)
        if short not in wanted:
            if not any(pattern.search(key) for pattern in ignored):
                unexpected.append(key)
            continue
        shape = _joint_shape([shapes[name] for name in wanted[short][1]])
        if tensor.shape != shape:
            misshaped.append(f"{key}: must be {tuple(shape)}, but got {tuple(tensor.shape)}")
        elif short in found and not torch.equal(found[short][1], tensor):
            unexpected.append(f"{key}, which differs from {found[short][0]}")
        found.setdefault(short, (key, tensor))
    missing = [key for short, (key, _) in wanted.items() if short not in found and not key.endswith(OPTIONAL)]
    ours: dict[str, Tensor] = {}
    if not misshaped:
        for short, (_, tensor) in found.items():
            names = wanted[short][1]
            parts = [tensor] if len(names) == 1 else torch.split(tensor, [shapes[name][0] for name in names])
            ours.update(zip(names, parts, strict=True))
    return Mismatch(tuple(missing), tuple(unexpected), tuple(misshaped), n_found=len(found)), ours


def _joint_shape(shapes: list[torch.Size]) -> torch.Size:
    """Returns the shape of tensors concatenated along dimension 0."""
    return shapes[0] if len(shapes) == 1 else torch.Size([sum(s[0] for s in shapes), *shapes[0][1:]])


def from_published(supernet: Supernet, tensors: Mapping[str, Tensor]) -> None:
    """Loads tensors given by published key, in any variant, or nothing.

    Raises:
        CheckpointError: names every missing, unexpected and mis-shaped tensor.
    """
    mismatch, found = compare(supernet, tensors)
    if mismatch:
        raise CheckpointError(mismatch.message(supernet.family.name, _hint(mismatch)))
    have = supernet.tensors()
    if any(tensor.is_meta and name not in found for name, tensor in have.items()):
        # What files do not hold (tables, batch counters) is as in a new network.
        full = supernet.family.build_full()
        have = {**dict(full.named_parameters()), **dict(full.named_buffers())}
    arrays = {name: found.get(name, tensor).detach().to(tensor.dtype).numpy() for name, tensor in have.items()}
    supernet.load_arrays(arrays)


def _hint(mismatch: Mismatch) -> str:
    if len(mismatch.missing) > mismatch.n_found:
        return " (another network?)"
    heads = [text for text in mismatch.misshaped if re.search(r"classifier|head|embed_tokens|word_embeddings", text)]
    if heads and len(heads) == len(mismatch.misshaped) and not mismatch.missing and not mismatch.unexpected:
        return " (another number of classes or vocabulary?)"
    if len(mismatch.misshaped) > mismatch.n_found // 2:
        return " (another width?)"
    return ""


def load_published(supernet: Supernet, path: str | Path, *, sha256: str | None = None) -> Checkpoint:
    """Loads a published checkpoint, or nothing; returns what was in the file.

    Accepts torch and safetensors files; tensors on top or under `state_dict`, `model`, ...; a `module.` prefix;
    `mobile_inverted_conv` for `conv`; single or doubled names; missing batch counters.

    Args:
        supernet: of the family and size that the file was made for.
        path: the file.
        sha256: digest that the file must have.

    Raises:
        CheckpointError: see `read_checkpoint` and `from_published`.
    """
    checkpoint = read_checkpoint(path, sha256=sha256)
    try:
        from_published(supernet, checkpoint.tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return checkpoint


def to_published(supernet: Supernet) -> dict[str, Tensor]:
    """Returns the full tensors by published key, copies included: what `load_published` reads."""
    tensors = supernet.tensors()
    out = {}
    for key, names in _wanted(supernet).values():
        parts = [tensors[name].detach() for name in names]
        out[key] = parts[0] if len(parts) == 1 else torch.cat(parts)
    for copy, original in supernet.family.published_copies.items():
        out[copy] = out[original]
    return out


def save_published(supernet: Supernet, path: str | Path) -> None:
    """Writes the full tensors by published key as a safetensors file (`load_published` reads it again)."""
    from safetensors.torch import save_file

    # Every tensor gets its own storage: the format does not know shared ones.
    save_file({key: tensor.clone().contiguous() for key, tensor in to_published(supernet).items()}, path)


def save_weights(supernet: Supernet, path: str | Path) -> None:
    """Writes the full tensors by our names as a safetensors file, with family and space in its metadata."""
    from safetensors.torch import save_file

    metadata = {"family": supernet.family.name, "space": supernet.family.space.fingerprint}
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in supernet.tensors().items()}
    save_file(tensors, path, metadata=metadata)


def load_weights(supernet: Supernet, path: str | Path, *, sha256: str | None = None) -> None:
    """Loads a file written by `save_weights`, or nothing.

    Raises:
        CheckpointError: not a complete file, another digest, or tensors that do not fit.
    """
    checkpoint = read_checkpoint(path, sha256=sha256)
    try:
        supernet.load_arrays({name: tensor.numpy() for name, tensor in checkpoint.tensors.items()})
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
