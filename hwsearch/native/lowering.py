"""Lowering: traced calls to nodes, with BatchNorm, activations, sums and means drawn into the nodes before them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hwsearch.native.nodes import ACTIVATIONS, FloatArray, Network, Node, Ref
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


def lower(trace: Trace, dtypes: list[torch.dtype]) -> Network:
    """Returns the network of a trace.

    Args:
        trace: of a module in eval mode, on an example of batch 1.
        dtypes: of its inputs.

    Raises:
        Unsupported: a function or a form of it without a kernel; names it.
    """
    lowering = Lowering(trace, dtypes)
    for dtype in dtypes:
        if dtype not in (torch.float32, torch.int64):
            raise Unsupported(f"an input of type {dtype}")
    used = [call for call in trace.calls if any(output.number in lowering.uses for output in call.outputs)]
    unknown = sorted({call.name for call in used if _plain_name(call) not in FUNCTIONS})
    if unknown:
        raise Unsupported(f"no kernel for {', '.join(unknown)}")
    for call in used:
        FUNCTIONS[_plain_name(call)](lowering, call)
    out = lowering.plain(lowering.ref(trace.output))
    if out.buffer < 0:
        raise Unsupported("an output that is an input")
    names = {torch.float32: "float", torch.int64: "int64_t"}
    inputs = tuple((value.shape[1:], names[dtype]) for value, dtype in zip(trace.inputs, dtypes, strict=True))
    return Network(tuple(lowering.nodes), tuple(lowering.buffers), inputs, out.buffer, out.shape)


def _plain_name(call: Call) -> str:
    """Returns the name of a function without what marks it as in-place: `relu` for `relu_`."""
    return call.name if call.name.startswith("__") else call.name.removesuffix("_")


def _values(things: Any) -> Any:
    for thing in things:
        if isinstance(thing, Value):
            yield thing
        elif isinstance(thing, tuple):
            yield from _values(thing)


def _arguments(call: Call, **defaults: Any) -> list[Any]:
    """Returns the arguments of a call in the order of `defaults`, whether given by position or by name."""
    names = list(defaults)
    if len(call.args) > len(names) or set(call.options) - set(names):
        raise Unsupported(f"function {call.name} with options {sorted(set(call.options) - set(names))}")
    given = {**defaults, **dict(zip(names, call.args, strict=False)), **call.options}
    return [given[name] for name in names]


def _array(tensor: Any) -> FloatArray:
    if not isinstance(tensor, Tensor):
        raise Unsupported("weights that depend on the input")
    array: FloatArray = np.ascontiguousarray(tensor.detach().cpu().numpy(), dtype=np.float32)
    return array


def _bias(tensor: Any, count: int) -> FloatArray:
    return np.zeros(count, np.float32) if tensor is None else _array(tensor)


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return (value, value)
    first, *rest = value
    return (int(first), int(rest[0] if rest else first))


def _one(value: Any, what: str) -> int:
    a, b = _pair(value)
    if a != b:
        raise Unsupported(f"{what} {a} x {b}")
    return a


# ---- layers with weights ------------------------------------------------------------------------------------------


def _conv2d(low: Lowering, call: Call) -> None:
    x, weight, bias, stride, padding, dilation, groups = _arguments(
        call, input=None, weight=None, bias=None, stride=1, padding=0, dilation=1, groups=1
    )
    if isinstance(padding, str):
        raise Unsupported(f"convolution with padding {padding}")
    w = _array(weight)
    outputs, per_group, kernel, other = w.shape
    if kernel != other:
        raise Unsupported(f"a convolution of kernel {kernel} x {other}")
    step, pad, spread = (_one(v, "a convolution with") for v in (stride, padding, dilation))
    raw = low.ref(x)
    if len(raw.shape) != 3:
        raise Unsupported(f"a convolution of shape {raw.shape}")
    channels, height, width = raw.shape
    reach = spread * (kernel - 1) + 1
    out = ((height + 2 * pad - reach) // step + 1, (width + 2 * pad - reach) // step + 1)
    numbers = {"channels": channels, "height": height, "width": width, "kernel": kernel, "stride": step}
    numbers |= {"padding": pad, "out_height": out[0], "out_width": out[1], "dilation": spread}
    n = out[0] * out[1]
    weights = {"weight": w.reshape(outputs, -1), "bias": _bias(bias, outputs)}
    pointwise = kernel == 1 and step == 1 and pad == 0
    if groups == channels == outputs and per_group == 1 and spread == 1 and step in (1, 2) and not pointwise:
        node = low.add("depthwise", [low.image(raw).buffer], outputs, n, weights=weights, numbers=numbers)
    elif pointwise and n == 1 and groups == 1:
        node = low.add(
            "vector", [raw.buffer if raw.is_contiguous else low.image(raw).buffer], outputs, 1, weights=weights
        )
    elif pointwise:
        node = low.add("matrix", [low.image(raw).buffer], outputs, n, weights=weights, numbers={"groups": groups})
    else:
        # A contiguous image (the network's input) is read where it lies.
        plain = raw.is_contiguous and raw.split == 3
        source = raw if plain else low.image(raw)
        numbers |= {"groups": groups, "patches": 1, "plain": int(plain)}
        node = low.add("matrix", [source.buffer], outputs, n, weights=weights, numbers=numbers)
    low.give(call, Ref(node.output, (outputs, *out), (0, 1, 2), 1), node)


def _linear(low: Lowering, call: Call) -> None:
    x, weight, bias = _arguments(call, input=None, weight=None, bias=None)
    ref = low.features(low.ref(x))
    w = _array(weight)
    weights = {"weight": w, "bias": _bias(bias, len(w))}
    kind = "vector" if ref.n == 1 else "matrix"
    numbers = {} if kind == "vector" else {"groups": 1}
    node = low.add(kind, [ref.buffer], len(w), ref.n, weights=weights, numbers=numbers)
    low.give(call, Ref(node.output, (*ref.shape[:-1], len(w)), ref.order, ref.split), node)


def _batch_norm(low: Lowering, call: Call) -> None:
    x, mean, variance, weight, bias, training, _, eps, _ = _arguments(
        call,
        input=None,
        running_mean=None,
        running_var=None,
        weight=None,
        bias=None,
        training=False,
        momentum=0.1,
        eps=1e-5,
        cudnn_enabled=True,
    )
    if training or mean is None:
        raise Unsupported("BatchNorm without running statistics")
    scale = 1.0 / np.sqrt(_array(variance).astype(np.float64) + eps)
    if weight is not None:
        scale = scale * _array(weight)
    shift = (0.0 if bias is None else _array(bias)) - _array(mean) * scale
    ref = low.ref(x)
    maker = low.maker(x)
    if maker is not None and maker.kind in FUSING and not maker.act and maker.residual is None:
        maker.weights["weight"] = (maker.weights["weight"] * scale[:, None]).astype(np.float32)
        maker.weights["bias"] = (maker.weights["bias"] * scale + shift).astype(np.float32)
        low.give(call, ref, maker)
        return
    if len(ref.shape) == 3:
        ref = low.image(ref)
    elif len(ref.shape) == 1:
        ref = Ref(ref.buffer, ref.shape, (0,), 1)
    else:
        raise Unsupported("BatchNorm over tokens")
    _affine(low, call, ref, scale, shift)


def _affine(low: Lowering, call: Call, ref: Ref, scale: Any, shift: Any) -> None:
    weights = {"scale": np.asarray(scale, np.float32), "shift": np.asarray(shift, np.float32)}
    node = low.add("affine", [ref.buffer], ref.rows, ref.n, weights=weights)
    low.give(call, Ref(node.output, ref.shape, ref.order, ref.split), node)


def _layer_norm(low: Lowering, call: Call) -> None:
    x, shape, weight, bias, eps = _arguments(call, input=None, normalized_shape=None, weight=None, bias=None, eps=1e-5)
    ref = low.features(low.ref(x))
    if tuple(shape) != ref.shape[-1:]:
        raise Unsupported(f"LayerNorm over {tuple(shape)}")
    weights = {"weight": np.ones(ref.rows, np.float32) if weight is None else _array(weight)}
    weights["bias"] = _bias(bias, ref.rows)
    node = low.add("layernorm", [ref.buffer], ref.rows, ref.n, weights=weights, numbers={"eps": float(eps)})
    low.give(call, Ref(node.output, ref.shape, ref.order, ref.split), node)


def _embedding(low: Lowering, call: Call) -> None:
    x, weight, _, max_norm, *_ = _arguments(
        call,
        input=None,
        weight=None,
        padding_idx=None,
        max_norm=None,
        norm_type=2.0,
        scale_grad_by_freq=False,
        sparse=False,
    )
    if max_norm is not None:
        raise Unsupported("Embedding with max_norm")
    if not isinstance(x, Value) or x.number not in whole_inputs(low):
        raise Unsupported("an embedding of numbers that are computed")
    table = _array(weight)
    ref = low.refs[x.number]
    n, dim = prod(ref.shape), table.shape[1]
    numbers = {"n": n, "entries": len(table)}
    node = low.add("embed", [ref.buffer], dim, n, weights={"table": table}, numbers=numbers)
    rank = len(ref.shape)
    low.give(call, Ref(node.output, (*ref.shape, dim), (rank, *range(rank)), 1), node)


def whole_inputs(low: Lowering) -> set[int]:
    """Returns the numbers of the inputs that hold whole numbers."""
    return {number for number, dtype in low.dtypes.items() if dtype is torch.int64}


# ---- element by element -------------------------------------------------------------------------------------------


def _activation(name: str) -> Callable[[Lowering, Call], None]:
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


def _hardtanh(low: Lowering, call: Call) -> None:
    _, least, most, _ = _arguments(call, input=None, min_val=-1.0, max_val=1.0, inplace=False)
    if (float(least), float(most)) != (0.0, 6.0):
        raise Unsupported(f"hardtanh from {least} to {most}")
    _activation("relu6")(low, call)


def _identity(low: Lowering, call: Call) -> None:
    if call.name == "dropout" and call.options.get("training", False):
        raise Unsupported("dropout in training")
    source = call.args[0]
    maker = low.maker(source)
    low.give(call, low.ref(source), maker)


def _binary(sign: str) -> Callable[[Lowering, Call], None]:
    def handler(low: Lowering, call: Call) -> None:
        if len(call.args) != 2 or call.options:
            raise Unsupported(f"function {call.name} with options {sorted(call.options)}")
        a, b = reversed(call.args) if call.name == "__rsub__" else call.args
        if sign in "+*" and not isinstance(a, Value):
            a, b = b, a
        if not isinstance(a, Value):
            if sign == "-" and isinstance(a, int | float):
                ref = low.ref(b)
                _affine(low, call, ref, *_filled(ref, -1.0, float(a)))
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
    _affine(low, call, ref, *_filled(ref, scale, shift))


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
    full = np.broadcast_to(_array(tensor), shape).transpose(ref.order).reshape(ref.rows, ref.n)
    if (full == full[:, :1]).all():
        row = full[:, 0].astype(np.float64)
        one, zero = np.ones_like(row), np.zeros_like(row)
        scale, shift = {"+": (one, row), "-": (one, -row), "*": (row, zero)}.get(sign, (one, zero))
        if sign == "/":
            scale = 1.0 / row
        _affine(low, call, ref, scale, shift)
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


# ---- shapes -------------------------------------------------------------------------------------------------------


def _reshape(low: Lowering, call: Call) -> None:
    shape = call.outputs[0].shape
    if shape[:1] != (1,):
        raise Unsupported(f"a reshape to {shape}, which joins examples")
    ref = low.ref(call.args[0])
    low.give(call, ref.reshaped(shape[1:]) or _moved(low, ref, shape[1:]))


def _moved(low: Lowering, ref: Ref, shape: tuple[int, ...]) -> Ref:
    moved = low.plain(ref).reshaped(shape)
    assert moved is not None  # what is contiguous takes every shape
    return moved


def _transpose(low: Lowering, call: Call) -> None:
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


def _getitem(low: Lowering, call: Call) -> None:
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


def _cat(low: Lowering, call: Call) -> None:
    parts, axis = _arguments(call, tensors=None, dim=0)
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
                weights[f"part{i}"] = np.ascontiguousarray(_array(part).reshape(-1, shape[1]).T)
                sizes.append(weights[f"part{i}"].shape[1])
        numbers = {"sizes": sizes, "constant": [not isinstance(part, Value) for part in parts]}
        node = low.add("join", inputs, shape[1], shape[0], weights=weights, numbers=numbers)
        low.give(call, Ref(node.output, shape, (1, 0), 1), node)
        return
    raise Unsupported(f"cat along axis {axis + 1} of shape {shape}")


# ---- pooling and attention ----------------------------------------------------------------------------------------


def _means(low: Lowering, call: Call, shape: tuple[int, ...]) -> None:
    x = call.args[0]
    ref = low.ref(x)
    ref = low.image(ref) if len(ref.shape) == 3 else low.features(ref)
    maker = next((node for node in reversed(low.nodes) if node.output == ref.buffer), None)
    if maker is not None and maker.kind == "depthwise" and maker.means is None and ref.n > 1:
        maker.means = low.buffer(ref.rows, 1)
        low.give(call, Ref.contiguous(maker.means, shape))
        return
    node = low.add("means", [ref.buffer], ref.rows, 1, numbers={"n": ref.n})
    low.give(call, Ref.contiguous(node.output, shape), node)


def _mean(low: Lowering, call: Call) -> None:
    _, axes, _ = _arguments(call, input=None, dim=None, keepdim=False)
    shape = call.args[0].shape
    given = sorted(int(a) % len(shape) for a in ((axes,) if isinstance(axes, int) else axes or ()))
    if given != ([2, 3] if len(shape) == 4 else [1]) or len(shape) not in (3, 4):
        raise Unsupported(f"a mean over axes {given} of shape {shape}")
    _means(low, call, call.outputs[0].shape[1:])


def _adaptive(low: Lowering, call: Call) -> None:
    shape = call.outputs[0].shape
    if shape[2:] != (1, 1):
        raise Unsupported(f"adaptive pooling to {shape[2:]}")
    _means(low, call, shape[1:])


def _pool(low: Lowering, call: Call) -> None:
    maximum = call.name == "max_pool2d"
    if maximum:
        x, size, stride, padding, dilation, _, _ = _arguments(
            call,
            input=None,
            kernel_size=None,
            stride=None,
            padding=0,
            dilation=1,
            ceil_mode=False,
            return_indices=False,
        )
        counted = 0
        if _one(dilation, "pooling with dilation") != 1:
            raise Unsupported("pooling with dilation")
    else:
        x, size, stride, padding, ceil, count, divisor = _arguments(
            call,
            input=None,
            kernel_size=None,
            stride=None,
            padding=0,
            ceil_mode=False,
            count_include_pad=True,
            divisor_override=None,
        )
        # Without padding there is nothing to count; what lies beyond the image in ceil_mode never counts.
        counted = int(bool(count) and _pair(padding) != (0, 0))
        if divisor is not None or (ceil and counted):
            raise Unsupported("average pooling with divisor_override, or with ceil_mode and counted padding")
    ref = low.image(low.ref(x))
    kernel = _one(size, "pooling over")
    numbers = {"channels": ref.shape[0], "height": ref.shape[1], "width": ref.shape[2], "kernel": kernel}
    numbers["stride"] = kernel if stride in (None, ()) else _one(stride, "pooling in steps of")
    out = call.outputs[0].shape[2:]
    numbers |= {"padding": _one(padding, "pooling with padding"), "out_height": out[0], "out_width": out[1]}
    numbers |= {"max": int(maximum), "counted": counted}
    node = low.add("pool", [ref.buffer], ref.rows, out[0] * out[1], numbers=numbers)
    low.give(call, Ref(node.output, call.outputs[0].shape[1:], (0, 1, 2), 1), node)


def _attention(low: Lowering, call: Call) -> None:
    query, key, value, mask, dropout, causal, scale, *_ = _arguments(
        call,
        query=None,
        key=None,
        value=None,
        attn_mask=None,
        dropout_p=0.0,
        is_causal=False,
        scale=None,
        enable_gqa=False,
    )
    if causal or dropout:
        raise Unsupported("attention that is causal or has dropout")
    q, k, v = (low.ref(part) for part in (query, key, value))
    wanted = ((0, 2, 1), 2)
    if any(len(r.shape) != 3 or (r.order, r.split) != wanted for r in (q, k, v)) or v.shape != k.shape:
        raise Unsupported("attention whose heads are not split from features of tokens")
    heads, queries, size = q.shape
    inputs = [q.buffer, k.buffer, v.buffer]
    if mask is not None:
        if not isinstance(mask, Value) or mask.number not in low.masks:
            raise Unsupported("attention with a mask that is computed")
        inputs.append(low.masks[mask.number].buffer)
    numbers: dict[str, Any] = {"heads": heads, "size": size, "queries": queries, "keys": k.shape[1]}
    numbers["scale"] = size**-0.5 if scale is None else float(scale)
    node = low.add("attention", inputs, heads * size, queries, numbers=numbers)
    low.give(call, Ref(node.output, q.shape, *wanted), node)


def _mask(low: Lowering, call: Call) -> None:
    """bool() of an input of whole numbers, 1 for the keys that may be seen."""
    x = call.args[0]
    if not isinstance(x, Value) or x.number not in whole_inputs(low) or len(x.shape) != 2:
        raise Unsupported("a mask that is computed")
    if call.name == "to" and call.args[1:] != (torch.bool,):
        raise Unsupported(f"a change of type to {call.args[1:]}")
    if call.name == "ne" and call.args[1:] != (0,):
        raise Unsupported(f"a comparison with {call.args[1:]}")
    node = low.add("mask", [low.refs[x.number].buffer], x.shape[1], 1)
    low.masks[call.outputs[0].number] = Ref.contiguous(node.output, x.shape[1:])


FUNCTIONS: Mapping[str, Callable[[Lowering, Call], None]] = {
    "conv2d": _conv2d,
    "linear": _linear,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "embedding": _embedding,
    **{name: _activation(name) for name in ACTIVATIONS[1:-1]},
    "hardtanh": _hardtanh,
    "dropout": _identity,
    "contiguous": _identity,
    "clone": _identity,
    **dict.fromkeys(("add", "__add__", "__iadd__", "__radd__"), _binary("+")),
    **dict.fromkeys(("sub", "__sub__", "__isub__", "__rsub__"), _binary("-")),
    **dict.fromkeys(("mul", "__mul__", "__imul__", "__rmul__"), _binary("*")),
    **dict.fromkeys(("div", "true_divide", "__truediv__", "__itruediv__"), _binary("/")),
    **dict.fromkeys(("flatten", "view", "reshape", "squeeze", "unsqueeze"), _reshape),
    **dict.fromkeys(("transpose", "permute"), _transpose),
    "__getitem__": _getitem,
    "cat": _cat,
    "mean": _mean,
    "adaptive_avg_pool2d": _adaptive,
    **dict.fromkeys(("max_pool2d", "avg_pool2d", "_max_pool2d"), _pool),
    "scaled_dot_product_attention": _attention,
    **dict.fromkeys(("bool", "to", "ne"), _mask),
}
