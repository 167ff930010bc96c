"""Labels through view, reshape, flatten and the like: axes are joined and split."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import fx

from search_spaces.from_model.units import Axes, Label
from search_spaces.from_model.walk import Walk, arguments, operator_name

BATCH = "is joined with the batch"
MOVES = frozenset({"permute", "transpose", "contiguous", "clone", "unsqueeze", "squeeze"})
TELLS_APART = frozenset({"select", "unbind", "split", "split_with_sizes", "chunk", "tensor_split"})


def stretches(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Returns the smallest runs of dimensions of two shapes that hold the same elements, as (dims before, dims after).

    Sizes of 1 are left out: they hold nothing.
    """
    runs: list[tuple[list[int], list[int]]] = []
    left = [d for d, n in enumerate(before) if n != 1]
    right = [d for d, n in enumerate(after) if n != 1]
    i = j = 0
    while i < len(left) and j < len(right):
        a, b = [left[i]], [right[j]]
        size_a, size_b = before[left[i]], after[right[j]]
        i, j = i + 1, j + 1
        while size_a != size_b:
            if size_a < size_b:
                a.append(left[i])
                size_a *= before[left[i]]
                i += 1
            else:
                b.append(right[j])
                size_b *= after[right[j]]
                j += 1
        runs.append((a, b))
    return runs


def viewed(state: Walk, source: fx.Node, node: fx.Node) -> Axes:
    """Returns the axes of a view: joined axes carry the entries of the one that can shrink, split ones go in blocks."""
    x, before, after = state.of(source), state.shape(source), state.captured.shapes[node]
    symbolic, symbolic_after = state.symbolic(source), state.symbolic(node)
    out: list[Label | None] = [None] * len(after)
    for dims, places in stretches(before, after):
        label = _joined(state, x, before, dims, node) if len(dims) > 1 else x[dims[0]]
        if label is None:
            continue
        if any(symbolic[d] for d in dims) or any(symbolic_after[p] for p in places):
            state.coupling.pin(label, f"{BATCH} in {state.where(node)}")
            continue
        if len(places) == 1:
            out[places[0]] = label
            continue
        sizes = tuple(after[p] for p in places)
        apart = _told_apart(node, len(after))
        carrier = next((i for i, p in enumerate(places) if p not in apart), None)
        if carrier is None:
            state.coupling.pin(label, f"is taken apart in {state.where(node)}")
            continue
        grid = np.moveaxis(label.reshape(sizes), carrier, 0).reshape(-1)
        out[places[carrier]] = state.coupling.blocks(grid, sizes[carrier])
        state.heads.append(grid)
    return tuple(out)


def _joined(state: Walk, x: Axes, before: tuple[int, ...], dims: list[int], node: fx.Node) -> Label | None:
    """Returns the label of several axes laid out in one; at most one of them shrinks."""
    labelled = [d for d in dims if x[d] is not None]
    if not labelled:
        return None
    for d in labelled[1:]:
        state.coupling.pin(x[d], f"is joined with another width in {state.where(node)}")
    keep = labelled[0]
    label = x[keep]
    assert label is not None
    view: list[Any] = [1] * len(dims)
    view[dims.index(keep)] = before[keep]
    sizes = tuple(before[d] for d in dims)
    return np.broadcast_to(label.reshape(view), sizes).reshape(-1).copy()


def _told_apart(node: fx.Node, n: int) -> set[int]:
    """Returns the dimensions of a value whose entries are later indexed one by one (such as q, k and v)."""
    found: set[int] = set()
    queue: list[tuple[fx.Node, list[int]]] = [(node, list(range(n)))]
    while queue:
        at, where = queue.pop()  # where[d]: the dimension of `node` that is dimension d here, -1 for none
        for user in at.users:
            if user.op != "call_function":
                continue
            name, args = operator_name(user), arguments(user)
            if name in TELLS_APART:
                found.add(where[int(args["dim"] or 0)])
            elif name in MOVES:
                queue.append((user, _moved(where, name, args)))
    return found - {-1}


def _moved(where: list[int], name: str, args: dict[str, Any]) -> list[int]:
    where = list(where)
    if name == "permute":
        return [where[int(d)] for d in args["dims"]]
    if name == "transpose":
        a, b = int(args["dim0"]), int(args["dim1"])
        where[a], where[b] = where[b], where[a]
    elif name == "unsqueeze":
        dim = int(args["dim"])
        where.insert(dim if dim >= 0 else len(where) + 1 + dim, -1)
    elif name == "squeeze":
        dims = args.get("dim")
        if dims is None:
            return [-1] * len(where)
        for dim in sorted({int(d) % len(where) for d in (dims if isinstance(dims, list | tuple) else [dims])})[::-1]:
            del where[dim]
    return where
