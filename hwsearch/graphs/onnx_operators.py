"""The ONNX operators without weights that are read: what each does, in torch or on host arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hwsearch.graphs.onnx_values import Unsupported, Value, host, numbers, operand, tensor

Attributes = Mapping[str, Any]
Operator = Callable[[Sequence[Value], Attributes], Any]
"""(inputs, attributes) -> output, or a list of outputs."""

DTYPES = {1: torch.float32, 6: torch.int32, 7: torch.int64, 9: torch.bool, 10: torch.float16, 11: torch.float64}


def _is_host(*values: Value) -> bool:
    return all(not isinstance(v, Tensor) for v in values)


def _unary(of_tensor: Callable[[Tensor], Tensor], of_number: Callable[[Any], Any] | None = None) -> Operator:
    def run(x: Sequence[Value], a: Attributes) -> Any:
        if _is_host(x[0]) and of_number is not None:
            return host([of_number(v) for v in x[0].ravel()]).reshape(x[0].shape)
        return of_tensor(tensor(x[0]))

    return run


def _binary(of_tensors: Callable[[Any, Any], Any], of_numbers: Callable[[Any, Any], Any]) -> Operator:
    def run(x: Sequence[Value], a: Attributes) -> Any:
        out = x[0]
        for other in x[1:]:
            if _is_host(out, other):
                left, right = np.broadcast_arrays(out, other)
                pairs = zip(left.ravel(), right.ravel(), strict=True)
                out = host([of_numbers(p, q) for p, q in pairs]).reshape(left.shape)
            else:
                left, right = operand(out, other), operand(other, out)
                out = of_tensors(left if isinstance(left, Tensor) else tensor(host(left)), right)
        return out

    return run


def _quotient(a: Any, b: Any) -> Any:
    return a // b if not isinstance(a, float) and not isinstance(b, float) else a / b


def _divided(a: Any, b: Any) -> Tensor:
    whole = not a.is_floating_point() and not (
        isinstance(b, float) or (isinstance(b, Tensor) and b.is_floating_point())
    )
    return torch.div(a, b, rounding_mode="trunc" if whole else None)


def _cast(x: Sequence[Value], a: Attributes) -> Any:
    to = DTYPES.get(int(a["to"]))
    if to is None:
        raise Unsupported(f"cast to ONNX type {a['to']} is not supported")
    if _is_host(x[0]):
        kind = float if to.is_floating_point else bool if to == torch.bool else None
        # A symbol of an open batch stays what it is: only plain numbers change their kind.
        cast = [(kind or int)(v) if isinstance(v, int | float | bool) else v for v in x[0].ravel()]
        return host(cast).reshape(x[0].shape)
    return x[0].to(to)


def _reshape(x: Sequence[Value], a: Attributes) -> Any:
    sizes = numbers(x[1], "a shape")
    if _is_host(x[0]):
        return x[0].reshape([int(n) for n in sizes])
    if not a.get("allowzero", 0):
        sizes = [x[0].shape[i] if isinstance(n, int) and n == 0 else n for i, n in enumerate(sizes)]
    return x[0].reshape(sizes)


def _axes(x: Sequence[Value], a: Attributes, at: int = 1) -> list[int] | None:
    if len(x) > at and x[at] is not None:
        return [int(n) for n in numbers(x[at], "an axis")]
    return [int(n) for n in a["axes"]] if "axes" in a else None


def _squeeze(x: Sequence[Value], a: Attributes) -> Any:
    axes = _axes(x, a)
    if _is_host(x[0]):
        return x[0].squeeze(None if axes is None else tuple(axes))
    return x[0].squeeze() if axes is None else x[0].squeeze(tuple(axes))


def _unsqueeze(x: Sequence[Value], a: Attributes) -> Any:
    axes = _axes(x, a) or []
    if _is_host(x[0]):
        return np.expand_dims(x[0], tuple(axes))
    out = x[0]
    for axis in sorted(n if n >= 0 else n + out.dim() + len(axes) for n in axes):
        out = out.unsqueeze(axis)
    return out


def _concat(x: Sequence[Value], a: Attributes) -> Any:
    axis = int(a["axis"])
    return np.concatenate(list(x), axis) if _is_host(*x) else torch.cat([tensor(v) for v in x], axis)


def _slice(x: Sequence[Value], a: Attributes) -> Any:
    starts, ends = numbers(x[1], "a start"), numbers(x[2], "an end")
    axes = _axes(x, a, 3) or list(range(len(starts)))
    steps = numbers(x[4], "a step") if len(x) > 4 and x[4] is not None else [1] * len(starts)
    cuts = [slice(None)] * (x[0].ndim if _is_host(x[0]) else x[0].dim())
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 0:
            raise Unsupported("a slice with a negative step is not supported")
        end = None if isinstance(end, int) and end >= 2**31 - 1 else end
        cuts[axis] = slice(None if isinstance(start, int) and start == 0 else start, end, None if step == 1 else step)
    return x[0][tuple(cuts)]


def _split(x: Sequence[Value], a: Attributes) -> list[Any]:
    axis = int(a.get("axis", 0))
    size = x[0].shape[axis]
    sizes = numbers(x[1], "a split") if len(x) > 1 and x[1] is not None else a.get("split")
    if sizes is None:
        each = -(-size // int(a["outputs"]))
        sizes = [min(each, size - i * each) for i in range(int(a["outputs"]))]
    if _is_host(x[0]):
        return list(np.split(x[0], np.cumsum([int(n) for n in sizes])[:-1], axis))
    return list(torch.split(x[0], [int(n) for n in sizes], axis))


def _gather(x: Sequence[Value], a: Attributes) -> Any:
    axis = int(a.get("axis", 0))
    if _is_host(*x):
        return np.asarray(np.take(x[0], x[1].astype(np.int64), axis), dtype=object)
    data = tensor(x[0])
    axis = axis % data.dim()
    if _is_host(x[1]) and x[1].ndim == 0:
        at = int(x[1].item())
        return data.select(axis, at if at >= 0 else data.shape[axis] + at)
    index = tensor(x[1])
    picked = data.index_select(axis, index.reshape(-1))
    return picked.reshape(*data.shape[:axis], *index.shape, *data.shape[axis + 1 :])


def _gather_nd(x: Sequence[Value], a: Attributes) -> Any:
    if int(a.get("batch_dims", 0)):
        raise Unsupported("GatherND with batch_dims is not supported")
    index = tensor(x[1])
    return tensor(x[0])[tuple(index.unbind(-1))]


def _expand(x: Sequence[Value], a: Attributes) -> Any:
    sizes = numbers(x[1], "a shape")
    if _is_host(x[0]):
        x = [tensor(x[0])]
    data = x[0]
    new = len(sizes) - data.dim()
    if new < 0:
        sizes, new = [1] * -new + sizes, 0
    shape = (1,) * new + tuple(data.shape)
    return data.expand([have if isinstance(n, int) and n == 1 else n for n, have in zip(sizes, shape, strict=True)])


def _constant_of_shape(x: Sequence[Value], a: Attributes) -> Any:
    sizes = numbers(x[0], "a shape")
    fill = a.get("value", np.zeros(1, dtype=np.float32)).ravel()[0]
    if len(sizes) <= 1 and all(isinstance(n, int) for n in sizes) and np.issubdtype(fill.dtype, np.integer):
        return host([int(fill)] * (sizes[0] if sizes else 1)).reshape(sizes)
    return torch.full(sizes, fill.item(), dtype=torch.from_numpy(np.array([fill])).dtype)


def _range(x: Sequence[Value], a: Attributes) -> Any:
    start, end, step = (numbers(v, "a range")[0] for v in x)
    return torch.arange(start, end, step)


def _where(x: Sequence[Value], a: Attributes) -> Any:
    if _is_host(*x):
        c, p, q = np.broadcast_arrays(*x)
        chosen = [b if t else d for t, b, d in zip(c.ravel(), p.ravel(), q.ravel(), strict=True)]
        return host(chosen).reshape(c.shape)
    return torch.where(tensor(x[0]).bool(), operand(x[1], x[2]), operand(x[2], x[1]))


def _pad(x: Sequence[Value], a: Attributes) -> Any:
    if a.get("mode", "constant") != "constant":
        raise Unsupported(f"padding of mode {a['mode']!r} is not supported")
    amounts = [int(n) for n in numbers(x[1], "padding")]
    n = x[0].dim()
    axes = _axes(x, a, 3) or list(range(n))
    both = {axis % n: (amounts[i], amounts[i + len(axes)]) for i, axis in enumerate(axes)}
    value = numbers(x[2], "a padding value")[0] if len(x) > 2 and x[2] is not None else 0.0
    flat = [amount for axis in reversed(range(n)) for amount in both.get(axis, (0, 0))]
    return F.pad(x[0], flat, value=float(value))


def _reduced(name: str) -> Operator:
    def run(x: Sequence[Value], a: Attributes) -> Any:
        data, keep, axes = tensor(x[0]), bool(a.get("keepdims", 1)), _axes(x, a)
        axes = list(range(data.dim())) if axes is None else axes
        if name == "norm":
            return torch.linalg.vector_norm(data, 2, axes, keep)
        return getattr(data, name)(dim=axes, keepdim=keep)

    return run


def _transpose(x: Sequence[Value], a: Attributes) -> Any:
    data = x[0]
    order = a.get("perm") or list(reversed(range(data.ndim)))
    return data.transpose(order) if _is_host(data) else data.permute([int(n) for n in order])


def _flatten(x: Sequence[Value], a: Attributes) -> Any:
    axis = int(a.get("axis", 1)) % x[0].dim()
    if axis != 1:
        raise Unsupported(f"Flatten must keep the batch apart (axis 1), but has axis {axis}")
    return x[0].flatten(1)


def _spatial(x: Tensor, a: Attributes) -> tuple[int, list[int], list[int], list[int], list[int]]:
    n = x.dim() - 2
    kernel = [int(k) for k in a["kernel_shape"]]
    pads = [int(p) for p in a.get("pads", [0] * 2 * n)]
    if a.get("auto_pad", "NOTSET") not in {"NOTSET", "VALID"} or pads[:n] != pads[n:]:
        raise Unsupported("pooling with unequal or automatic padding is not supported")
    return n, kernel, list(a.get("strides", [1] * n)), pads[:n], list(a.get("dilations", [1] * n))


def _max_pool(x: Sequence[Value], a: Attributes) -> Any:
    n, kernel, stride, pad, dilation = _spatial(x[0], a)
    pool: Any = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[n - 1]
    return pool(x[0], kernel, stride, pad, dilation, ceil_mode=bool(a.get("ceil_mode", 0)))


def _average_pool(x: Sequence[Value], a: Attributes) -> Any:
    n, kernel, stride, pad, dilation = _spatial(x[0], a)
    if set(dilation) != {1}:
        raise Unsupported("average pooling with dilation is not supported")
    pool: Any = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[n - 1]
    return pool(x[0], kernel, stride, pad, bool(a.get("ceil_mode", 0)), bool(a.get("count_include_pad", 0)))


def _resize(x: Sequence[Value], a: Attributes) -> Any:
    data, mode = x[0], a.get("mode", "nearest")
    where = a.get("coordinate_transformation_mode", "half_pixel")
    if data.dim() != 4 or mode not in {"nearest", "linear", "cubic"}:
        raise Unsupported(f"Resize of mode {mode!r} on {data.dim()} axes is not supported")
    if len(x) > 3 and x[3] is not None and np.size(x[3]):
        sizes = [int(n) for n in numbers(x[3], "a size")[2:]]
    else:
        scales = [float(n) for n in numbers(x[2], "a scale")[2:]]
        sizes = [math.floor(n * s) for n, s in zip(data.shape[2:], scales, strict=True)]
    if mode == "nearest":
        whole = all(size % side == 0 for size, side in zip(sizes, data.shape[2:], strict=True))
        if not whole and (where, a.get("nearest_mode")) != ("asymmetric", "floor"):
            raise Unsupported(f"Resize nearest with {where!r} is supported for whole factors only")
        return F.interpolate(data, sizes)
    if where not in {"half_pixel", "pytorch_half_pixel", "align_corners"}:
        raise Unsupported(f"Resize with {where!r} is not supported")
    kind = "bilinear" if mode == "linear" else "bicubic"
    return F.interpolate(data, sizes, mode=kind, align_corners=where == "align_corners")


def _depth_to_space(x: Sequence[Value], a: Attributes) -> Any:
    if a.get("mode", "DCR") != "CRD":
        raise Unsupported("DepthToSpace of mode DCR is not supported")
    return F.pixel_shuffle(x[0], int(a["blocksize"]))


def _clip(x: Sequence[Value], a: Attributes) -> Any:
    low, high = (numbers(v, "a bound")[0] if v is not None else None for v in (*x[1:], None, None)[:2])
    return torch.clamp(tensor(x[0]), low, high)


def _trilu(x: Sequence[Value], a: Attributes) -> Any:
    diagonal = int(numbers(x[1], "a diagonal")[0]) if len(x) > 1 and x[1] is not None else 0
    return (torch.triu if a.get("upper", 1) else torch.tril)(tensor(x[0]), diagonal)


def _norm_instances(x: Sequence[Value], a: Attributes) -> Any:
    return F.instance_norm(x[0], weight=tensor(x[1]), bias=tensor(x[2]), eps=float(a.get("epsilon", 1e-5)))


def _softmax(log: bool) -> Operator:
    def run(x: Sequence[Value], a: Attributes) -> Any:
        axis = int(a.get("axis", -1))
        return x[0].log_softmax(axis) if log else x[0].softmax(axis)

    return run


OPERATORS: Mapping[str, Operator] = {
    "Identity": lambda x, a: x[0],
    "Dropout": lambda x, a: x[0],
    "Add": _binary(torch.add, lambda p, q: p + q),
    "Sub": _binary(torch.sub, lambda p, q: p - q),
    "Mul": _binary(torch.mul, lambda p, q: p * q),
    "Div": _binary(_divided, _quotient),
    "Pow": _binary(torch.pow, lambda p, q: p**q),
    "Max": _binary(lambda p, q: torch.maximum(p, torch.as_tensor(q, dtype=p.dtype)), max),
    "Min": _binary(lambda p, q: torch.minimum(p, torch.as_tensor(q, dtype=p.dtype)), min),
    "Equal": _binary(torch.eq, lambda p, q: bool(p == q)),
    "Greater": _binary(torch.gt, lambda p, q: bool(p > q)),
    "GreaterOrEqual": _binary(torch.ge, lambda p, q: bool(p >= q)),
    "Less": _binary(torch.lt, lambda p, q: bool(p < q)),
    "LessOrEqual": _binary(torch.le, lambda p, q: bool(p <= q)),
    "And": _binary(torch.logical_and, lambda p, q: p and q),
    "Or": _binary(torch.logical_or, lambda p, q: p or q),
    "Not": _unary(torch.logical_not, lambda v: not v),
    "Sqrt": _unary(torch.sqrt, math.sqrt),
    "Reciprocal": _unary(torch.reciprocal, lambda v: 1 / v),
    "Neg": _unary(torch.neg, lambda v: -v),
    "Abs": _unary(torch.abs, abs),
    "Exp": _unary(torch.exp),
    "Log": _unary(torch.log),
    "Sin": _unary(torch.sin),
    "Cos": _unary(torch.cos),
    "Erf": _unary(torch.erf),
    "Floor": _unary(torch.floor),
    "IsNaN": _unary(torch.isnan),
    "Relu": _unary(torch.relu),
    "Sigmoid": _unary(torch.sigmoid),
    "Tanh": _unary(torch.tanh),
    "Softplus": _unary(F.softplus),
    "HardSwish": _unary(F.hardswish),
    "Gelu": lambda x, a: F.gelu(x[0], approximate=a.get("approximate", "none")),
    "LeakyRelu": lambda x, a: F.leaky_relu(x[0], float(a.get("alpha", 0.01))),
    "Elu": lambda x, a: F.elu(x[0], float(a.get("alpha", 1.0))),
    "HardSigmoid": lambda x, a: torch.clamp(x[0] * float(a.get("alpha", 0.2)) + float(a.get("beta", 0.5)), 0, 1),
    "Clip": _clip,
    "Softmax": _softmax(False),
    "LogSoftmax": _softmax(True),
    "Cast": _cast,
    "Shape": lambda x, a: host(list(x[0].shape)[slice(a.get("start"), a.get("end"))]),
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": _concat,
    "Slice": _slice,
    "Split": _split,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Expand": _expand,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "Where": _where,
    "Trilu": _trilu,
    "Pad": _pad,
    "CumSum": lambda x, a: tensor(x[0]).cumsum(int(numbers(x[1], "an axis")[0])),
    "ReduceMean": _reduced("mean"),
    "ReduceSum": _reduced("sum"),
    "ReduceMax": _reduced("amax"),
    "ReduceMin": _reduced("amin"),
    "ReduceL2": _reduced("norm"),
    "GlobalAveragePool": lambda x, a: x[0].mean(dim=tuple(range(2, x[0].dim())), keepdim=True),
    "GlobalMaxPool": lambda x, a: x[0].amax(dim=tuple(range(2, x[0].dim())), keepdim=True),
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "Resize": _resize,
    "DepthToSpace": _depth_to_space,
    "InstanceNormalization": _norm_instances,
    "MatMul": lambda x, a: tensor(x[0]) @ tensor(x[1]),
}
