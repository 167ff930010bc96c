"""Weights of super-networks: look into a checkpoint, convert a published one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hwsearch import checkpoints
from hwsearch.build import registry
from hwsearch.config import set_path
from hwsearch.construct import construct
from hwsearch.errors import UserError
from search_spaces.published import compare, read_checkpoint, save_weights
from search_spaces.supernet import Family, Supernet


def family_of(name: str, params: Sequence[str]) -> Family:
    """Returns a family from its name and `key=value` arguments (values in YAML).

    Raises:
        ConfigError: unknown name or wrong arguments.
    """
    raw: dict[str, Any] = {}
    for text in params:
        set_path(raw, text)
    family: Family = construct(registry.named("families", name, "--family"), raw, where="--param", given={})
    return family


def inspect(path: Path, *, family: str | None = None, params: Sequence[str] = ()) -> dict[str, Any]:
    """Returns what a checkpoint holds and, for a family, whether it fits; nothing in the file is executed.

    Raises:
        CheckpointError: no readable checkpoint.
    """
    checkpoint = read_checkpoint(path)
    answer: dict[str, Any] = {
        "file": str(path),
        "format": checkpoint.format,
        "wrapper": checkpoint.wrapper,
        "sha256": checkpoint.sha256,
        "n_tensors": len(checkpoint.tensors),
        "n_values": sum(t.numel() for t in checkpoint.tensors.values()),
        "tensors": {key: list(t.shape) for key, t in checkpoint.tensors.items()},
    }
    if family is not None:
        supernet = Supernet(family_of(family, params), meta=True)
        if checkpoints.is_ours(supernet, checkpoint):
            answer["fits"] = "as saved by hwsearch"
        else:
            mismatch, _ = compare(supernet, checkpoint.tensors)
            answer["fits"] = "as published" if not mismatch else "no"
            answer["missing"] = list(mismatch.missing)
            answer["unexpected"] = list(mismatch.unexpected)
            answer["misshaped"] = list(mismatch.misshaped)
    return answer


def convert(
    source: Path, target: Path, *, family: str, params: Sequence[str] = (), sha256: str | None = None
) -> dict[str, Any]:
    """Writes a published checkpoint as a safetensors file with our names, which `supernet.weights` takes.

    Raises:
        CheckpointError: the file is broken, has another digest, or does not fit the family; nothing is written.
        UserError: the target is not called `*.safetensors`, or exists.
    """
    if target.suffix != ".safetensors":
        raise UserError(f"the target must be called *.safetensors, but got {target}.")
    if target.exists():
        raise UserError(f"the target must not exist, but {target} does.")
    supernet = Supernet(family_of(family, params), meta=True)
    checkpoint = read_checkpoint(source, sha256=sha256)
    checkpoints.load_checkpoint(supernet, checkpoint, source)
    save_weights(supernet, target)
    return {"file": str(target), "bytes": target.stat().st_size, "source_sha256": checkpoint.sha256}
