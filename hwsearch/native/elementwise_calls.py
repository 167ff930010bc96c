"""Element-wise calls: activations, sums and products, drawn into the node before where that is possible."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
from torch import Tensor

from hwsearch.native.lowering import (
    ACTIVATING,
    FUSING,
    Lowering,
    affine,
    arguments,
    array_of,
)
from hwsearch.native.nodes import ACTIVATIONS, FloatArray, Ref
from hwsearch.native.trace import Call, Unsupported, Value


def activation(name: str) -> Callable[[Lowering, Call], None]:
    """Returns the handler of an activation: at the end of the node before, or a node of its own."""

    def handler(low: Lowering, call: Call) -> None:
        kind = name
        if name == "gelu" and call.options.get("approximate", "none") != "none":
            kind = "gelu_tanh"
        if name == "hardtanh" or (name == "relu6"):
            kind = "relu6"
        act = ACTIVATIONS.index(kind)
        ref = low.ref(call.args[0] if call.args else call.options.get("input"))
        maker = low.maker(call.args[0] if call.args else None)
        if maker is not None and maker.kind in ACTIVATING and not maker.act and maker.means is None:
            maker.act = act
            low.give(call, ref, maker)
            return
        node = low.add("unary", [ref.buffer], ref.rows, ref.n, act=act)
        low.give(call, Ref(node.output, ref.shape, ref.order, ref.split), node)

    return handler


def hardtanh(low: Lowering, call: Call) -> None:
    """Takes hardtanh from 0 to 6, which is ReLU6."""
    _, least, most, _ = arguments(call, input=None, min_val=-1.0, max_val=1.0, inplace=False)
    if (float(least), float(most)) != (0.0, 6.0):
        raise Unsupported(f"hardtanh from {least} to {most}")
    activation("relu6")(low, call)


def identity(low: Lowering, call: Call) -> None:
    """Takes what changes nothing in eval mode."""
    if call.name == "dropout" and call.options.get("training", False):
        raise Unsupported("dropout in training")
    source = call.args[0]
    maker = low.maker(source)
    low.give(call, low.ref(source), maker)


def binary(sign: str) -> Callable[[Lowering, Call], None]:
    """Returns the handler of `+`, `-`, `*` or `/` with a tensor, a number or a constant of the module."""

    def handler(low: Lowering, call: Call) -> None:
        if len(call.args) != 2 or call.options:
            raise Unsupported(f"function {call.name} with options {sorted(call.options)}")
        a, b = reversed(call.args) if call.name == "__rsub__" else call.args
        if sign in "+*" and not isinstance(a, Value):
            a, b = b, a
        if not isinstance(a, Value):
            if sign == "-" and isinstance(a, int | float):
                ref = low.ref(b)
                affine(low, call, ref, *_filled(ref, -1.0, float(a)))
                return
            raise Unsupported(f"a constant {call.name} a tensor")
        if isinstance(b, Value):
            _both(low, call, a, b, sign)
        elif isinstance(b, int | float):
            _number(low, call, low.ref(a), float(b), sign)
        elif isinstance(b, Tensor):
            _constant(low, call, low.ref(a), b, sign)
        else:
            raise Unsupported(f"function {call.name} with {type(b).__name__}")

    return handler


def _filled(ref: Ref, scale: float, shift: float) -> tuple[FloatArray, FloatArray]:
    return np.full(ref.rows, scale, np.float32), np.full(ref.rows, shift, np.float32)


def _number(low: Lowering, call: Call, ref: Ref, number: float, sign: str) -> None:
    scale, shift = {"+": (1.0, number), "-": (1.0, -number), "*": (number, 0.0), "/": (1.0 / number, 0.0)}[sign]
    affine(low, call, ref, *_filled(ref, scale, shift))


def _constant(low: Lowering, call: Call, ref: Ref, tensor: Tensor, sign: str) -> None:
    """A tensor of the module: the same at every position, or with a value for each."""
    if tensor.numel() == 1:
        _number(low, call, ref, float(tensor), sign)
        return
    if ref.is_contiguous and len(ref.shape) > 1 and ref.n == 1 and prod(ref.shape) > ref.shape[-1]:
        ref = low.image(ref) if len(ref.shape) == 3 and tensor.dim() >= 3 else low.features(ref)
    shape = call.outputs[0].shape[1:]
    if tensor.dim() > len(shape):
        tensor = tensor.squeeze(0)
    if shape != ref.shape:
        raise Unsupported(f"function {call.name} that widens a tensor to {shape}")
    full = np.broadcast_to(array_of(tensor), shape).transpose(ref.order).reshape(ref.rows, ref.n)
    if (full == full[:, :1]).all():
        row = full[:, 0].astype(np.float64)
        one, zero = np.ones_like(row), np.zeros_like(row)
        scale, shift = {"+": (one, row), "-": (one, -row), "*": (row, zero)}.get(sign, (one, zero))
        if sign == "/":
            scale = 1.0 / row
        affine(low, call, ref, scale, shift)
        return
    weights = {"with": np.ascontiguousarray(full)}
    node = low.add("binary", [ref.buffer], ref.rows, ref.n, weights=weights, numbers={"sign": sign})
    low.give(call, Ref(node.output, ref.shape, ref.order, ref.split), node)


def _both(low: Lowering, call: Call, a: Value, b: Value, sign: str) -> None:
    one, two = low.ref(a), low.ref(b)
    if prod(one.shape) < prod(two.shape) and sign in "+*":
        a, b, one, two = b, a, two, one
    if one.shape == two.shape:
        if (one.order, one.split) != (two.order, two.split):
            one, two = low.plain(one), low.plain(two)
        if sign == "+" and _drawn_in(low, call, a, b, one, two):
            return
        node = low.add("binary", [one.buffer, two.buffer], one.rows, one.n, numbers={"sign": sign})
        low.give(call, Ref(node.output, one.shape, one.order, one.split), node)
        return
    # One value per row: a gate (channels, 1, 1) on an image.
    if len(one.shape) == 3 and two.n == 1 and (*two.shape, 1, 1)[:3] == (one.shape[0], 1, 1):
        one = low.image(one)
        node = low.add("rows", [one.buffer, two.buffer], one.rows, one.n, numbers={"sign": sign})
        low.give(call, Ref(node.output, one.shape, one.order, one.split), node)
        return
    raise Unsupported(f"function {call.name} of shapes {one.shape} and {two.shape}")


def _drawn_in(low: Lowering, call: Call, a: Value, b: Value, one: Ref, two: Ref) -> bool:
    """Adds one operand at the end of the node that makes the other, where that node comes later and ends so."""
    for value, ref, other in ((b, two, one), (a, one, two)):
        maker = low.maker(value)
        if maker is None or maker.kind not in FUSING or maker.act or maker.residual is not None or other.buffer < 0:
            continue
        made = [i for i, node in enumerate(low.nodes) if other.buffer in (node.output, node.means)]
        if made and made[-1] < low.nodes.index(maker):
            maker.residual = other.buffer
            low.give(call, ref, maker)
            return True
    return False
