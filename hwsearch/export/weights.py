"""Weights as safetensors: plain, or with every sparse weight in the encoding that `stored_bytes` counts."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from hwsearch.errors import UserError
from search_spaces.block_sparsity import Block
from search_spaces.kernel_groups import KernelGroups
from search_spaces.layers import LayerSpec
from search_spaces.pattern import kept as kept_of
from search_spaces.sparsity import NOfM, Unstructured, parse_pattern

METADATA_KEY = "hwsearch.sparse"
Words = NDArray[np.uint32]


def patterns_of(layers: Sequence[LayerSpec]) -> dict[str, str]:
    """Returns weight name -> pattern name for the sparse layers of one architecture.

    Args:
        layers: `supernet.layer_costs(arch).layers`: sizes of shape (1,).
    """
    found = {}
    for layer in layers:
        if not layer.may_be_sparse or not bool(np.all(layer.active)):
            continue
        pattern = layer.patterns[int(np.asarray(layer.pattern).reshape(-1)[0])]
        if pattern.name != "dense":
            found[f"{layer.name}.weight"] = pattern.name
    return found


def encode(state: Mapping[str, Tensor], patterns: Mapping[str, str] | None = None) -> bytes:
    """Returns a safetensors file whose payload has exactly `Costs.stored_bytes` bytes if `patterns` are the layers'.

    A weight under a pattern that fits it and makes it smaller is stored as
    `<name>.values` (kept values, float32) and
      unstructured: `<name>.bitmap`, one bit per weight in flat order, 1 = kept;
      n:m: `<name>.positions`, per kept value its place among the m inputs, ceil(log2 m) bits each, blocks in the
      order (output, kernel row, kernel column, block of inputs);
      block: `<name>.bitmap`, one bit per tile in the order of `Block.tiles`, values tile by tile;
      groups: `<name>.supports`, one bit per group and input (inputs * kernel^2), `<name>.members`, the group of
      each output in ceil(log2 groups) bits, values output by output.
    Bits are packed most significant first. Pattern and shape stand in the file's metadata under `hwsearch.sparse`.

    Args:
        state: tensors by name.
        patterns: weight name -> pattern name; none: an ordinary safetensors file.

    Raises:
        UserError: a weight has more non-zero values than its pattern keeps.
    """
    tensors: dict[str, Tensor] = {}
    sparse: dict[str, dict[str, Any]] = {}
    for name, tensor in state.items():
        parts = _encode_weight(name, tensor, (patterns or {}).get(name, "dense"))
        if parts is None:
            tensors[name] = tensor.detach().cpu().contiguous()
        else:
            tensors.update({f"{name}.{part}": value for part, value in parts.items()})
            sparse[name] = {"pattern": (patterns or {})[name], "shape": list(tensor.shape)}
    metadata = {METADATA_KEY: json.dumps(sparse, sort_keys=True)} if sparse else None
    content: bytes = safetensors.torch.save(dict(sorted(tensors.items())), metadata=metadata)
    return content


def decode(content: bytes) -> dict[str, Tensor]:
    """Returns the tensors of a file that `encode` made, dense and bit-equal; also of any safetensors file.

    Raises:
        UserError: the bytes are not such a file.
    """
    try:
        tensors = safetensors.torch.load(content)
        sparse = json.loads(_header(content).get("__metadata__", {}).get(METADATA_KEY, "{}"))
    except (SafetensorError, ValueError, struct.error) as error:
        raise UserError(f"weights must be a safetensors file, but: {' '.join(str(error).split())[:200]}.") from error
    for name, entry in sparse.items():
        try:
            weight = _decode_weight(name, tensors, str(entry["pattern"]), tuple(entry["shape"]))
        except (KeyError, ValueError, IndexError, RuntimeError) as error:
            raise UserError(f"sparse weight {name!r} must be complete, but its parts do not fit: {error}.") from error
        tensors = {key: t for key, t in tensors.items() if key.rpartition(".")[0] != name}
        tensors[name] = weight
    return tensors


def payload_bytes(content: bytes) -> int:
    """Returns the bytes of all tensors in a safetensors file, without its header."""
    return len(content) - 8 - struct.unpack("<Q", content[:8])[0]  # type: ignore[no-any-return]


def _header(content: bytes) -> dict[str, Any]:
    (length,) = struct.unpack("<Q", content[:8])
    header: dict[str, Any] = json.loads(content[8 : 8 + length])
    return header


def _words(tensor: Tensor) -> Words:
    """Returns float32 values as bit patterns, so that -0.0 and NaN survive and only +0.0 is empty."""
    array: Words = tensor.detach().cpu().contiguous().numpy().view(np.uint32)
    return array


def _encode_weight(name: str, weight: Tensor, pattern_name: str) -> dict[str, Tensor] | None:
    """Returns the parts of a sparse weight, or None where it is stored dense."""
    pattern = parse_pattern(pattern_name)
    if not isinstance(pattern, Unstructured | NOfM | Block | KernelGroups) or weight.dtype != torch.float32:
        return None
    outputs, inputs = weight.shape[0], weight.shape[1]
    kernel = weight.shape[2] if weight.dim() > 2 else 1
    if not bool(pattern.fits(outputs, inputs, kernel)):
        return None
    keep = int(pattern.nonzeros(outputs, inputs, kernel))
    words = _words(weight)
    if isinstance(pattern, Block | KernelGroups):
        parts = _encode_tiles(words, pattern) if isinstance(pattern, Block) else _encode_groups(words, pattern)
        if len(parts["values"]) > keep:
            raise UserError(
                f"{name} under pattern {pattern_name} must have at most {keep} values in its support, "
                f"but got {len(parts['values'])}."
            )
        if sum(part.nbytes for part in parts.values()) >= words.nbytes:
            return None
        return {key: torch.from_numpy(part.copy()) for key, part in parts.items()}
    if isinstance(pattern, NOfM):
        blocks = _blocks(words, pattern.m)
        kept, part = _kept_in_blocks(blocks, pattern.n), "positions"
        most, most_allowed = int((blocks != 0).sum(1).max()), pattern.n
        flat = blocks[kept]
        packed = _pack(np.nonzero(kept)[1], (pattern.m - 1).bit_length())
    else:
        kept, part = _kept_flat(words.reshape(-1), keep), "bitmap"
        most, most_allowed = int(np.count_nonzero(words)), keep
        flat = words.reshape(-1)[kept]
        packed = np.packbits(kept)
    if most > most_allowed:
        where = f"per {pattern.m} inputs" if isinstance(pattern, NOfM) else "in all"
        raise UserError(
            f"{name} under pattern {pattern_name} must have at most {most_allowed} non-zero values {where}, "
            f"but got {most}."
        )
    if flat.nbytes + packed.nbytes >= words.nbytes:
        return None  # the dense form is not larger
    return {"values": torch.from_numpy(flat.view(np.float32).copy()), part: torch.from_numpy(packed.copy())}


def _encode_tiles(words: Words, pattern: Block) -> dict[str, NDArray[Any]]:
    tiles = pattern.tiles(torch.from_numpy(words.view(np.int32))).reshape(-1, pattern.rows * pattern.columns).numpy()
    nonzero = (tiles != 0).any(1)
    kept = _kept_flat(nonzero.astype(np.uint32), max(int(nonzero.sum()), int(kept_of(len(tiles), pattern.sparsity))))
    return {"values": tiles[kept].reshape(-1).view(np.float32), "bitmap": np.packbits(kept)}


def _encode_groups(words: Words, pattern: KernelGroups) -> dict[str, NDArray[Any]]:
    rows = words.reshape(len(words), -1)
    keep = int(kept_of(rows.shape[1], pattern.sparsity))
    supports: list[NDArray[np.bool_]] = []
    # An output with zeros of its own inside its group's support must find that group: widest supports come first.
    order = np.argsort(-(rows != 0).sum(1), kind="stable")
    group = np.zeros(len(rows), np.intp)
    for row in order:
        wanted = rows[row] != 0
        fitting = [g for g, support in enumerate(supports) if not (wanted & ~support).any()]
        if fitting:
            group[row] = fitting[0]
            continue
        if len(supports) == pattern.groups or wanted.sum() > keep:
            return {"values": np.zeros(rows.size + 1, np.float32)}  # no such groups: refused by the caller
        supports.append(_kept_flat(wanted.astype(np.uint32), keep))
        group[row] = len(supports) - 1
    supports += [supports[0]] * (pattern.groups - len(supports))
    values = rows[np.stack(supports)[group]]
    return {
        "values": values.view(np.float32),
        "supports": np.packbits(np.stack(supports)),
        "members": _pack(group, (pattern.groups - 1).bit_length()),
    }


def _blocks(words: Words, m: int) -> Words:
    """Returns (outputs * kernel positions * inputs / m, m): the inputs of one output and kernel position in blocks."""
    return np.ascontiguousarray(np.moveaxis(words, 1, -1)).reshape(-1, m)


def _kept_flat(words: Words, keep: int) -> NDArray[np.bool_]:
    """Returns a mask of exactly `keep` values: all non-zeros, then zeros from the front (kept by the mask as well)."""
    order = np.argsort(words == 0, kind="stable")
    mask = np.zeros(len(words), dtype=bool)
    mask[order[:keep]] = True
    return mask


def _kept_in_blocks(blocks: Words, n: int) -> NDArray[np.bool_]:
    """Returns a mask (blocks, m) with exactly n per row: the non-zeros, then zeros from the front."""
    order = np.argsort(blocks == 0, axis=1, kind="stable")[:, :n]
    mask = np.zeros(blocks.shape, dtype=bool)
    np.put_along_axis(mask, order, True, axis=1)
    return mask


def _pack(numbers: NDArray[np.intp], bits: int) -> NDArray[np.uint8]:
    """Returns whole numbers below 2**bits, packed most significant bit first."""
    shifts = np.arange(bits - 1, -1, -1)
    return np.packbits(((numbers[:, None] >> shifts) & 1).astype(np.uint8))


def _unpack(packed: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.intp]:
    shifts = np.arange(bits - 1, -1, -1)
    digits = np.unpackbits(packed, count=count * bits).reshape(count, bits).astype(np.intp)
    unpacked: NDArray[np.intp] = (digits << shifts).sum(1)
    return unpacked


def _decode_weight(name: str, tensors: Mapping[str, Tensor], pattern_name: str, shape: tuple[int, ...]) -> Tensor:
    pattern = parse_pattern(pattern_name)
    values = _words(tensors[f"{name}.values"])
    if isinstance(pattern, NOfM):
        order = (shape[0], *shape[2:], shape[1])
        blocks = np.zeros((int(np.prod(shape)) // pattern.m, pattern.m), np.uint32)
        packed, bits = tensors[f"{name}.positions"].numpy(), (pattern.m - 1).bit_length()
        if len(values) != len(blocks) * pattern.n or len(packed) != (len(values) * bits + 7) // 8:
            raise ValueError(f"{len(values)} values and {len(packed)} bytes of positions for shape {shape}")
        places = _unpack(packed, bits, len(values))
        np.put_along_axis(blocks, places.reshape(-1, pattern.n), values.reshape(-1, pattern.n), axis=1)
        words = np.ascontiguousarray(np.moveaxis(blocks.reshape(order), -1, 1))
    elif isinstance(pattern, Block):
        words = _decode_tiles(values, tensors[f"{name}.bitmap"].numpy(), pattern, shape)
    elif isinstance(pattern, KernelGroups):
        words = _decode_groups(values, tensors[f"{name}.supports"], tensors[f"{name}.members"], pattern, shape)
    else:
        flat = np.zeros(int(np.prod(shape)), np.uint32)
        bitmap = tensors[f"{name}.bitmap"].numpy()
        if len(bitmap) != (len(flat) + 7) // 8:
            raise ValueError(f"{len(bitmap)} bytes of bitmap for shape {shape}")
        kept = np.unpackbits(bitmap, count=len(flat)).astype(bool)
        flat[kept] = values
        words = flat.reshape(shape)
    return torch.from_numpy(words.view(np.float32))


def _decode_tiles(values: Words, bitmap: NDArray[np.uint8], pattern: Block, shape: tuple[int, ...]) -> Words:
    blank = pattern.tiles(torch.zeros(shape, dtype=torch.int32))
    tiles = np.zeros((blank.numel() // (pattern.rows * pattern.columns), pattern.rows * pattern.columns), np.uint32)
    if len(bitmap) != (len(tiles) + 7) // 8:
        raise ValueError(f"{len(bitmap)} bytes of bitmap for {len(tiles)} tiles")
    tiles[np.unpackbits(bitmap, count=len(tiles)).astype(bool)] = values.reshape(-1, tiles.shape[1])
    return np.ascontiguousarray(tiles.reshape(blank.shape).transpose(0, 3, 1, 4, 2)).reshape(shape)


def _decode_groups(
    values: Words, supports: Tensor, members: Tensor, pattern: KernelGroups, shape: tuple[int, ...]
) -> Words:
    outputs, inputs = shape[0], int(np.prod(shape[1:]))
    support = np.unpackbits(supports.numpy(), count=pattern.groups * inputs).reshape(pattern.groups, inputs)
    group = _unpack(members.numpy(), (pattern.groups - 1).bit_length(), outputs)
    words = np.zeros((outputs, inputs), np.uint32)
    words[support[group].astype(bool)] = values
    return words.reshape(shape)
