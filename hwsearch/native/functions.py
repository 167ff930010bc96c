"""Functions: the calls that have kernels, and the network that a trace of them becomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from hwsearch.native.elementwise_calls import activation, binary, hardtanh, identity
from hwsearch.native.lowering import Lowering
from hwsearch.native.nodes import ACTIVATIONS, Network
from hwsearch.native.pooling_calls import adaptive, attention, mask, mean, pool
from hwsearch.native.shape_calls import cat, getitem, reshape, transpose
from hwsearch.native.trace import Call, Trace, Unsupported
from hwsearch.native.weighted_calls import batch_norm, conv2d, embedding, layer_norm, linear


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
    unknown = {call.name: _place(call) for call in used if _plain_name(call) not in FUNCTIONS}
    if unknown:
        raise Unsupported(f"no kernel for {', '.join(f'{name}{place}' for name, place in sorted(unknown.items()))}")
    for call in used:
        try:
            FUNCTIONS[_plain_name(call)](lowering, call)
        except Unsupported as error:
            raise Unsupported(f"{error}{_place(call)}") from error
    out = lowering.plain(lowering.ref(trace.output))
    if out.buffer < 0:
        raise Unsupported("an output that is an input")
    names = {torch.float32: "float", torch.int64: "int64_t"}
    inputs = tuple((value.shape[1:], names[dtype]) for value, dtype in zip(trace.inputs, dtypes, strict=True))
    return Network(tuple(lowering.nodes), tuple(lowering.buffers), inputs, out.buffer, out.shape)


def _place(call: Call) -> str:
    return f" in layer {call.layer}" if call.layer else ""


def _plain_name(call: Call) -> str:
    """Returns the name of a function without what marks it as in-place: `relu` for `relu_`."""
    return call.name if call.name.startswith("__") else call.name.removesuffix("_")


FUNCTIONS: Mapping[str, Callable[[Lowering, Call], None]] = {
    "conv2d": conv2d,
    "linear": linear,
    "batch_norm": batch_norm,
    "layer_norm": layer_norm,
    "embedding": embedding,
    **{name: activation(name) for name in ACTIVATIONS[1:-1]},
    "hardtanh": hardtanh,
    "dropout": identity,
    "contiguous": identity,
    "clone": identity,
    **dict.fromkeys(("add", "__add__", "__iadd__", "__radd__"), binary("+")),
    **dict.fromkeys(("sub", "__sub__", "__isub__", "__rsub__"), binary("-")),
    **dict.fromkeys(("mul", "__mul__", "__imul__", "__rmul__"), binary("*")),
    **dict.fromkeys(("div", "true_divide", "__truediv__", "__itruediv__"), binary("/")),
    **dict.fromkeys(("flatten", "view", "reshape", "squeeze", "unsqueeze"), reshape),
    **dict.fromkeys(("transpose", "permute"), transpose),
    "__getitem__": getitem,
    "cat": cat,
    "mean": mean,
    "adaptive_avg_pool2d": adaptive,
    **dict.fromkeys(("max_pool2d", "avg_pool2d", "_max_pool2d"), pool),
    "scaled_dot_product_attention": attention,
    **dict.fromkeys(("bool", "to", "ne"), mask),
}
