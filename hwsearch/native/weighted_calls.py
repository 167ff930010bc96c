"""Weighted calls: convolutions, linear layers, norms and embeddings as nodes."""

from __future__ import annotations

from math import prod

import numpy as np

from hwsearch.native.lowering import (
    FUSING,
    Lowering,
    affine,
    arguments,
    array_of,
    bias_of,
    one_of,
    whole_inputs,
)
from hwsearch.native.nodes import Ref
from hwsearch.native.trace import Call, Unsupported, Value


def conv2d(low: Lowering, call: Call) -> None:
    """Takes a convolution: depthwise, pointwise, or by patches."""
    x, weight, bias, stride, padding, dilation, groups = arguments(
        call, input=None, weight=None, bias=None, stride=1, padding=0, dilation=1, groups=1
    )
    if isinstance(padding, str):
        raise Unsupported(f"convolution with padding {padding}")
    w = array_of(weight)
    outputs, per_group, kernel, other = w.shape
    if kernel != other:
        raise Unsupported(f"a convolution of kernel {kernel} x {other}")
    step, pad, spread = (one_of(v, "a convolution with") for v in (stride, padding, dilation))
    raw = low.ref(x)
    if len(raw.shape) != 3:
        raise Unsupported(f"a convolution of shape {raw.shape}")
    channels, height, width = raw.shape
    reach = spread * (kernel - 1) + 1
    out = ((height + 2 * pad - reach) // step + 1, (width + 2 * pad - reach) // step + 1)
    numbers = {"channels": channels, "height": height, "width": width, "kernel": kernel, "stride": step}
    numbers |= {"padding": pad, "out_height": out[0], "out_width": out[1], "dilation": spread}
    n = out[0] * out[1]
    weights = {"weight": w.reshape(outputs, -1), "bias": bias_of(bias, outputs)}
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


def linear(low: Lowering, call: Call) -> None:
    """Takes a linear layer over the last axis."""
    x, weight, bias = arguments(call, input=None, weight=None, bias=None)
    ref = low.features(low.ref(x))
    w = array_of(weight)
    weights = {"weight": w, "bias": bias_of(bias, len(w))}
    kind = "vector" if ref.n == 1 else "matrix"
    numbers = {} if kind == "vector" else {"groups": 1}
    node = low.add(kind, [ref.buffer], len(w), ref.n, weights=weights, numbers=numbers)
    low.give(call, Ref(node.output, (*ref.shape[:-1], len(w)), ref.order, ref.split), node)


def batch_norm(low: Lowering, call: Call) -> None:
    """Takes BatchNorm into the weights before it, or as scale and shift."""
    x, mean, variance, weight, bias, training, _, eps, _ = arguments(
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
    scale = 1.0 / np.sqrt(array_of(variance).astype(np.float64) + eps)
    if weight is not None:
        scale = scale * array_of(weight)
    shift = (0.0 if bias is None else array_of(bias)) - array_of(mean) * scale
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
    affine(low, call, ref, scale, shift)


def layer_norm(low: Lowering, call: Call) -> None:
    """Takes LayerNorm over the last axis."""
    x, shape, weight, bias, eps = arguments(call, input=None, normalized_shape=None, weight=None, bias=None, eps=1e-5)
    ref = low.features(low.ref(x))
    if tuple(shape) != ref.shape[-1:]:
        raise Unsupported(f"LayerNorm over {tuple(shape)}")
    weights = {"weight": np.ones(ref.rows, np.float32) if weight is None else array_of(weight)}
    weights["bias"] = bias_of(bias, ref.rows)
    node = low.add("layernorm", [ref.buffer], ref.rows, ref.n, weights=weights, numbers={"eps": float(eps)})
    low.give(call, Ref(node.output, ref.shape, ref.order, ref.split), node)


def embedding(low: Lowering, call: Call) -> None:
    """Takes rows of a table, by an input of whole numbers."""
    x, weight, _, max_norm, *_ = arguments(
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
    table = array_of(weight)
    ref = low.refs[x.number]
    n, dim = prod(ref.shape), table.shape[1]
    numbers = {"n": n, "entries": len(table)}
    node = low.add("embed", [ref.buffer], dim, n, weights={"table": table}, numbers=numbers)
    rank = len(ref.shape)
    low.give(call, Ref(node.output, (*ref.shape, dim), (rank, *range(rank)), 1), node)
