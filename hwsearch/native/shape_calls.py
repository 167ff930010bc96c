"""Shape calls: views, transposes, indices and concatenations; most move nothing in memory."""

from __future__ import annotations

import numpy as np

from hwsearch.native.lowering import (
    Lowering,
    arguments,
    array_of,
)
from hwsearch.native.nodes import Ref
from hwsearch.native.trace import Call, Unsupported, Value


def reshape(low: Lowering, call: Call) -> None:
    """Takes views; what cannot stay where it is becomes contiguous first."""
    shape = call.outputs[0].shape
    if shape[:1] != (1,):
        raise Unsupported(f"a reshape to {shape}, which joins examples")
    ref = low.ref(call.args[0])
    low.give(call, ref.reshaped(shape[1:]) or _moved(low, ref, shape[1:]))


def _moved(low: Lowering, ref: Ref, shape: tuple[int, ...]) -> Ref:
    moved = low.plain(ref).reshaped(shape)
    assert moved is not None  # what is contiguous takes every shape
    return moved


def transpose(low: Lowering, call: Call) -> None:
    """Takes transposes and permutations, which move nothing."""
    ref = low.ref(call.args[0])
    rank = len(ref.shape) + 1
    if call.name == "permute":
        raw = call.args[1] if isinstance(call.args[1], tuple) else call.args[1:]
        axes = [int(a) % rank for a in raw]
    else:
        a, b = (int(v) % rank for v in call.args[1:])
        axes = list(range(rank))
        axes[a], axes[b] = b, a
    if axes[0] != 0:
        raise Unsupported("a transpose of the batch axis")
    low.give(call, ref.permuted(tuple(a - 1 for a in axes[1:])))


def getitem(low: Lowering, call: Call) -> None:
    """Takes one token, or a range of them; indices of a mask only widen it."""
    x, index = call.args
    number = x.number if isinstance(x, Value) else -1
    if number in low.masks:
        low.masks[call.outputs[0].number] = low.masks[number]
        return
    ref = low.ref(x)
    index = index if isinstance(index, tuple) else (index,)
    if len(index) != 2 or index[0] != slice(None) or len(ref.shape) != 2:
        raise Unsupported(f"an index {index}")
    ref = low.features(ref)
    tokens, chosen = ref.shape[0], index[1]
    if isinstance(chosen, int):
        first, count, shape = chosen % tokens, 1, ref.shape[1:]
    elif isinstance(chosen, slice) and chosen.step in (None, 1):
        first, stop, _ = chosen.indices(tokens)
        count = stop - first
        shape = (count, ref.shape[1])
    else:
        raise Unsupported(f"an index {index}")
    node = low.add("columns", [ref.buffer], ref.rows, count, numbers={"first": first, "n": ref.n})
    order, split = ((0,), 1) if len(shape) == 1 else ((1, 0), 1)
    low.give(call, Ref(node.output, shape, order, split), node)


def cat(low: Lowering, call: Call) -> None:
    """Takes channels, features or tokens one behind the other."""
    parts, axis = arguments(call, tensors=None, dim=0)
    shape = call.outputs[0].shape[1:]
    axis = int(axis) % (len(shape) + 1) - 1
    if len(shape) == 3 and axis == 0:
        refs = [low.image(low.ref(part)) for part in parts]
        node = low.add("stack", [ref.buffer for ref in refs], sum(ref.rows for ref in refs), refs[0].n)
        node.numbers["rows"] = [ref.rows for ref in refs]
        low.give(call, Ref(node.output, shape, (0, 1, 2), 1), node)
        return
    if len(shape) == 1 and axis == 0:
        refs = [low.plain(low.ref(part)) for part in parts]
        node = low.add("stack", [ref.buffer for ref in refs], shape[0], 1, numbers={"rows": [r.rows for r in refs]})
        low.give(call, Ref.contiguous(node.output, shape), node)
        return
    if len(shape) == 2 and axis == 0:
        # Tokens one after another; some may be constants of the module (a class token).
        inputs, sizes, weights = [], [], {}
        for i, part in enumerate(parts):
            if isinstance(part, Value):
                ref = low.features(low.ref(part))
                inputs.append(ref.buffer)
                sizes.append(ref.n)
            else:
                weights[f"part{i}"] = np.ascontiguousarray(array_of(part).reshape(-1, shape[1]).T)
                sizes.append(weights[f"part{i}"].shape[1])
        numbers = {"sizes": sizes, "constant": [not isinstance(part, Value) for part in parts]}
        node = low.add("join", inputs, shape[1], shape[0], weights=weights, numbers=numbers)
        low.give(call, Ref(node.output, shape, (1, 0), 1), node)
        return
    raise Unsupported(f"cat along axis {axis + 1} of shape {shape}")
