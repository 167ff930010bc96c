"""Lowering: what handlers of calls share - where values lie, which node makes them, conversions between layouts."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hwsearch.native.nodes import FloatArray, Node, Ref
from hwsearch.native.trace import Call, Trace, Unsupported, Value

FUSING = frozenset({"matrix", "vector", "depthwise"})
ACTIVATING = FUSING | {"binary", "rows", "affine"}


class Lowering:
    """Collects nodes while the handlers in `FUNCTIONS` go through the calls."""

    def __init__(self, trace: Trace, dtypes: list[torch.dtype]) -> None:
        self.trace = trace
        self.nodes: list[Node] = []
        self.buffers: list[tuple[int, int]] = []
        self.refs: dict[int, Ref] = {}
        self.masks: dict[int, Ref] = {}
        self.uses: dict[int, int] = {trace.output.number: 1}
        self.dtypes = dict(zip((v.number for v in trace.inputs), dtypes, strict=True))
        self.converted: dict[tuple[int, str], Ref] = {}
        for call in trace.calls:
            for value in _values((*call.args, *call.options.values())):
                self.uses[value.number] = self.uses.get(value.number, 0) + 1
        for i, value in enumerate(trace.inputs):
            self.refs[value.number] = Ref.contiguous(-1 - i, value.shape[1:])

    # ---- building ----------------------------------------------------------------------------------------------

    def buffer(self, rows: int, n: int) -> int:
        """Returns the number of a new buffer."""
        self.buffers.append((rows, n))
        return len(self.buffers) - 1

    def add(self, kind: str, inputs: list[int], rows: int, n: int, **more: Any) -> Node:
        """Returns a new node with a buffer of its own."""
        node = Node(kind, inputs, self.buffer(rows, n), **more)
        self.nodes.append(node)
        return node

    def give(self, call: Call, ref: Ref, node: Node | None = None) -> None:
        """Says where the result of a call lies, and which node makes it."""
        value = call.outputs[0]
        if value.shape[:1] != (1,) or value.shape[1:] != ref.shape:
            raise Unsupported(f"function {call.name} with a result of shape {value.shape}")
        self.refs[value.number] = ref
        if node is not None:
            node.value = value.number

    def ref(self, operand: Any) -> Ref:
        """Returns where an operand lies."""
        if not isinstance(operand, Value) or operand.number not in self.refs:
            raise Unsupported("an operator on a constant, or on a mask, that only floats may go into")
        if self.dtypes.get(operand.number, torch.float32) is not torch.float32:
            raise Unsupported("arithmetic on whole numbers")
        return self.refs[operand.number]

    def maker(self, operand: Any) -> Node | None:
        """Returns the node that makes a value which nothing else uses, so that it may do more."""
        if not isinstance(operand, Value) or self.uses.get(operand.number) != 1:
            return None
        return next((node for node in reversed(self.nodes) if node.value == operand.number), None)

    def image(self, ref: Ref) -> Ref:
        """Returns an image (channels, height, width) or a vector as channels x pixels."""
        if ref.order == (0, 1, 2) and ref.split == 1:
            return ref
        if len(ref.shape) == 3 and ref.is_contiguous:
            channels, n = ref.shape[0], ref.shape[1] * ref.shape[2]
            if n == 1:
                return Ref(ref.buffer, ref.shape, (0, 1, 2), 1)
            return self._convert(ref, "pad", Ref(-1, ref.shape, (0, 1, 2), 1), channels, n)
        raise Unsupported("an operator on images that is given something else")

    def features(self, ref: Ref) -> Ref:
        """Returns a tensor whose last axis is the rows and whose other axes are the positions."""
        last = len(ref.shape) - 1
        if ref.order[: ref.split] == (last,):
            return ref
        if ref.is_contiguous:
            n = prod(ref.shape[:-1])
            order = (last, *range(last))
            if n == 1:
                return Ref(ref.buffer, ref.shape, order, 1)
            return self._convert(ref, "from_rows", Ref(-1, ref.shape, order, 1), ref.shape[-1], n)
        raise Unsupported("an operator on features that are not the last axis in memory")

    def plain(self, ref: Ref) -> Ref:
        """Returns a tensor as torch has it in memory."""
        if ref.is_contiguous:
            return ref
        rank = len(ref.shape)
        out = Ref.contiguous(-1, ref.shape)
        if ref.order == tuple(range(rank)):
            return self._convert(ref, "strip", out, ref.rows, ref.n)
        if ref.order == (*range(ref.order[0], rank), *range(ref.order[0])):
            return self._convert(ref, "to_rows", out, ref.rows, ref.n)
        raise Unsupported(f"axes in the order {ref.order}")

    def _convert(self, ref: Ref, kind: str, like: Ref, rows: int, n: int) -> Ref:
        key = (ref.buffer, kind)
        if key not in self.converted:
            sizes = {"rows": rows, "n": n}
            wide = (rows, n) if kind in ("pad", "from_rows") else (rows * n, 1)
            node = self.add(kind, [ref.buffer], *wide, numbers=sizes)
            self.converted[key] = Ref(node.output, like.shape, like.order, like.split)
        made = self.converted[key]
        return Ref(made.buffer, like.shape, like.order, like.split)


def _values(things: Any) -> Any:
    for thing in things:
        if isinstance(thing, Value):
            yield thing
        elif isinstance(thing, tuple):
            yield from _values(thing)


def affine(low: Lowering, call: Call, ref: Ref, scale: Any, shift: Any) -> None:
    """Adds a scale and a shift per row as a node."""
    weights = {"scale": np.asarray(scale, np.float32), "shift": np.asarray(shift, np.float32)}
    node = low.add("affine", [ref.buffer], ref.rows, ref.n, weights=weights)
    low.give(call, Ref(node.output, ref.shape, ref.order, ref.split), node)


def whole_inputs(low: Lowering) -> set[int]:
    """Returns the numbers of the inputs that hold whole numbers."""
    return {number for number, dtype in low.dtypes.items() if dtype is torch.int64}


def arguments(call: Call, **defaults: Any) -> list[Any]:
    """Returns the arguments of a call in the order of `defaults`, whether given by position or by name."""
    names = list(defaults)
    if len(call.args) > len(names) or set(call.options) - set(names):
        raise Unsupported(f"function {call.name} with options {sorted(set(call.options) - set(names))}")
    given = {**defaults, **dict(zip(names, call.args, strict=False)), **call.options}
    return [given[name] for name in names]


def array_of(tensor: Any) -> FloatArray:
    """Returns a tensor of the module as float32."""
    if not isinstance(tensor, Tensor):
        raise Unsupported("weights that depend on the input")
    array: FloatArray = np.ascontiguousarray(tensor.detach().cpu().numpy(), dtype=np.float32)
    return array


def bias_of(tensor: Any, count: int) -> FloatArray:
    """Returns a bias, or zeros."""
    return np.zeros(count, np.float32) if tensor is None else array_of(tensor)


def pair_of(value: Any) -> tuple[int, int]:
    """Returns (height, width) of an option."""
    if isinstance(value, int):
        return (value, value)
    first, *rest = value
    return (int(first), int(rest[0] if rest else first))


def one_of(value: Any, what: str) -> int:
    """Returns the option that holds for height and width alike."""
    a, b = pair_of(value)
    if a != b:
        raise Unsupported(f"{what} {a} x {b}")
    return a
