"""The ONNX operators with weights that are read: each becomes a torch.nn layer that holds the file's numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hwsearch.graphs.onnx_values import Unsupported

Arrays = Sequence[Tensor | None]
"""Constant inputs of a node behind its first one; None where one is left out."""
LSTM_GATES = (0, 2, 3, 1)
"""ONNX: input, output, forget, cell; torch: input, forget, cell, output."""
GRU_GATES = (1, 0, 2)
"""ONNX: update, reset, hidden; torch: reset, update, new."""


def _sides(weight: Tensor, a: Mapping[str, Any]) -> dict[str, Any]:
    n = weight.dim() - 2
    pads = [int(p) for p in a.get("pads", [0] * 2 * n)]
    automatic = a.get("auto_pad", "NOTSET") not in {"NOTSET", "VALID"}
    if automatic or pads[:n] != pads[n:]:
        raise Unsupported("padding must be the same on both sides and written out, but it is not")
    if not 1 <= n <= 3:
        raise Unsupported(f"a convolution must have 1 to 3 sides, but has {n}")
    return {
        "kernel_size": tuple(weight.shape[2:]),
        "stride": tuple(a.get("strides", [1] * n)),
        "padding": tuple(pads[:n]),
        "dilation": tuple(a.get("dilations", [1] * n)),
        "groups": int(a.get("group", 1)),
    }


def _given(layer: nn.Module, **tensors: Tensor | None) -> nn.Module:
    """Puts tensors in place: parameters may be shared between layers, so they are not copied."""
    for name, value in tensors.items():
        if value is not None:
            setattr(layer, name, value)
    return layer


def _conv(w: Arrays, a: Mapping[str, Any], rank: int) -> nn.Module:
    weight, bias = _first(w), w[1] if len(w) > 1 else None
    sides = _sides(weight, a)
    kind: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[weight.dim() - 3]
    inputs = weight.shape[1] * sides["groups"]
    return _given(kind(inputs, len(weight), bias=bias is not None, **sides), weight=weight, bias=bias)


def _transposed(w: Arrays, a: Mapping[str, Any], rank: int) -> nn.Module:
    weight, bias = _first(w), w[1] if len(w) > 1 else None
    sides = _sides(weight, a)
    extra = tuple(a.get("output_padding", [0] * (weight.dim() - 2)))
    if "output_shape" in a:
        raise Unsupported("ConvTranspose with output_shape is not supported")
    kind: Any = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[weight.dim() - 3]
    outputs = weight.shape[1] * sides["groups"]
    layer = kind(len(weight), outputs, output_padding=extra, bias=bias is not None, **sides)
    return _given(layer, weight=weight, bias=bias)


def _linear(w: Arrays, a: Mapping[str, Any], rank: int) -> nn.Module:
    """Weights come as (outputs, inputs): the reader has transposed them where the file has them the other way."""
    weight, bias = _first(w), w[1] if len(w) > 1 else None
    if float(a.get("alpha", 1)) != 1 or float(a.get("beta", 1)) != 1 or int(a.get("transA", 0)):
        raise Unsupported("Gemm must have alpha = beta = 1 and transA = 0")
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    return _given(layer, weight=weight, bias=bias)


def _batch_norm(w: Arrays, a: Mapping[str, Any], rank: int) -> nn.Module:
    if int(a.get("training_mode", 0)):
        raise Unsupported("BatchNormalization must not be in training mode")
    kind: Any = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 5: nn.BatchNorm3d}.get(rank, nn.BatchNorm2d)
    layer: nn.Module = kind(len(_first(w)), eps=float(a.get("epsilon", 1e-5)))
    _given(layer, weight=w[0], bias=w[1])
    for name, value in zip(("running_mean", "running_var"), w[2:], strict=True):
        assert value is not None
        layer.register_buffer(name, value.detach())
    return layer


def _layer_norm(w: Arrays, a: Mapping[str, Any], rank: int) -> nn.Module:
    weight, bias = _first(w), w[1] if len(w) > 1 else None
    axis = int(a.get("axis", -1))
    if rank and axis % rank != rank - weight.dim():
        raise Unsupported(f"LayerNormalization must have weights for all axes from {axis} on")
    layer = nn.LayerNorm(tuple(weight.shape), eps=float(a.get("epsilon", 1e-5)), bias=bias is not None)
    return _given(layer, weight=weight, bias=bias)


def _prelu(w: Arrays, a: Mapping[str, Any], rank: int) -> nn.Module:
    slope = _first(w)
    sides = slope.dim() - 1 - next((i for i, n in enumerate(slope.shape) if n > 1), 0)
    if slope.numel() != max(slope.shape, default=1) or (rank and slope.numel() > 1 and sides != rank - 2):
        raise Unsupported("PRelu must have one slope, or one for every channel")
    return _given(nn.PReLU(slope.numel()), weight=nn.Parameter(slope.detach().flatten()))


def _embedding(w: Arrays, a: Mapping[str, Any], rank: int) -> nn.Module:
    weight = _first(w)
    return _given(nn.Embedding(*weight.shape), weight=weight)


def _recurrent(w: Arrays, a: Mapping[str, Any], kind: Any, gates: Sequence[int]) -> nn.Module:
    weight, recurrent = _first(w), w[1]
    assert recurrent is not None
    directions, size = len(weight), int(a["hidden_size"])
    both = a.get("direction", "forward") == "bidirectional"
    if both != (directions == 2) or int(a.get("layout", 0)) or "clip" in a or "activations" in a:
        raise Unsupported("a recurrent layer must run forward or both ways, with its usual activations")
    bias = w[2] if len(w) > 2 else None
    layer: nn.Module = kind(weight.shape[2], size, bias=bias is not None, bidirectional=both)

    def ordered(values: Tensor) -> nn.Parameter:
        blocks = values.detach().reshape(len(gates), size, -1)[list(gates)]
        return nn.Parameter(blocks.reshape(values.shape).clone())

    for i in range(directions):
        end = "_reverse" if i else ""
        tensors = {"weight_ih": weight[i], "weight_hh": recurrent[i]}
        if bias is not None:
            tensors["bias_ih"], tensors["bias_hh"] = bias[i].chunk(2)
        for name, values in tensors.items():
            setattr(layer, f"{name}_l0{end}", ordered(values))
    return layer


def _lstm(w: Arrays, a: Mapping[str, Any], rank: int) -> nn.Module:
    if int(a.get("input_forget", 0)) or (len(w) > 6 and w[6] is not None):
        raise Unsupported("an LSTM with coupled gates or peepholes is not supported")
    return _recurrent(w, a, nn.LSTM, LSTM_GATES)


def _gru(w: Arrays, a: Mapping[str, Any], rank: int) -> nn.Module:
    if not int(a.get("linear_before_reset", 0)):
        raise Unsupported("a GRU must have linear_before_reset = 1")
    return _recurrent(w, a, nn.GRU, GRU_GATES)


def _first(w: Arrays) -> Tensor:
    assert w[0] is not None
    return w[0]


Maker = Callable[[Arrays, Mapping[str, Any], int], nn.Module]
"""(constant inputs, attributes, rank of the first input or 0 if unknown) -> layer."""
LAYERS: Mapping[str, Maker] = {
    "Conv": _conv,
    "ConvTranspose": _transposed,
    "Gemm": _linear,
    "MatMul": _linear,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "PRelu": _prelu,
    "Gather": _embedding,
    "LSTM": _lstm,
    "GRU": _gru,
}


def call(layer: nn.Module, x: Tensor) -> Any:
    """Returns the outputs of a layer as ONNX has them: those of recurrent ones have an axis for the direction."""
    if not isinstance(layer, nn.LSTM | nn.GRU):
        return layer(x)
    y, states = layer(x)
    directions = 2 if layer.bidirectional else 1
    y = y.reshape(y.shape[0], y.shape[1], directions, layer.hidden_size).permute(0, 2, 1, 3)
    return [y, *states] if isinstance(states, tuple) else [y, states]


def array(tensor: Any) -> NDArray[Any]:
    """Returns the numbers of an ONNX tensor, writable."""
    from onnx import numpy_helper

    return np.array(numpy_helper.to_array(tensor))


def as_parameter(values: NDArray[Any]) -> Tensor:
    """Returns numbers as a parameter, or as a plain tensor where they are integers."""
    made = torch.from_numpy(np.ascontiguousarray(values))
    return nn.Parameter(made) if made.is_floating_point() else made
