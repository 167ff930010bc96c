"""Pooling calls: means, pooling, attention and its masks."""

from __future__ import annotations

from typing import Any

import torch

from hwsearch.native.lowering import (
    Lowering,
    arguments,
    one_of,
    pair_of,
    whole_inputs,
)
from hwsearch.native.nodes import Ref
from hwsearch.native.trace import Call, Unsupported, Value


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


def mean(low: Lowering, call: Call) -> None:
    """Takes the mean over all pixels, or over all tokens."""
    _, axes, _ = arguments(call, input=None, dim=None, keepdim=False)
    shape = call.args[0].shape
    given = sorted(int(a) % len(shape) for a in ((axes,) if isinstance(axes, int) else axes or ()))
    if given != ([2, 3] if len(shape) == 4 else [1]) or len(shape) not in (3, 4):
        raise Unsupported(f"a mean over axes {given} of shape {shape}")
    _means(low, call, call.outputs[0].shape[1:])


def adaptive(low: Lowering, call: Call) -> None:
    """Takes adaptive average pooling to one pixel."""
    shape = call.outputs[0].shape
    if shape[2:] != (1, 1):
        raise Unsupported(f"adaptive pooling to {shape[2:]}")
    _means(low, call, shape[1:])


def pool(low: Lowering, call: Call) -> None:
    """Takes square maximum and average pooling."""
    maximum = call.name == "max_pool2d"
    if maximum:
        x, size, stride, padding, dilation, _, _ = arguments(
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
        if one_of(dilation, "pooling with dilation") != 1:
            raise Unsupported("pooling with dilation")
    else:
        x, size, stride, padding, ceil, count, divisor = arguments(
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
        counted = int(bool(count) and pair_of(padding) != (0, 0))
        if divisor is not None or (ceil and counted):
            raise Unsupported("average pooling with divisor_override, or with ceil_mode and counted padding")
    ref = low.image(low.ref(x))
    kernel = one_of(size, "pooling over")
    numbers = {"channels": ref.shape[0], "height": ref.shape[1], "width": ref.shape[2], "kernel": kernel}
    numbers["stride"] = kernel if stride in (None, ()) else one_of(stride, "pooling in steps of")
    out = call.outputs[0].shape[2:]
    numbers |= {"padding": one_of(padding, "pooling with padding"), "out_height": out[0], "out_width": out[1]}
    numbers |= {"max": int(maximum), "counted": counted}
    node = low.add("pool", [ref.buffer], ref.rows, out[0] * out[1], numbers=numbers)
    low.give(call, Ref(node.output, call.outputs[0].shape[1:], (0, 1, 2), 1), node)


def attention(low: Lowering, call: Call) -> None:
    """Takes attention of heads that were split from features of tokens, with or without a mask of keys."""
    query, key, value, mask, dropout, causal, scale, *_ = arguments(
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


def mask(low: Lowering, call: Call) -> None:
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
