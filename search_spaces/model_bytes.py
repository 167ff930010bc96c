"""Bytes of a network's tensors at a precision, for whole populations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from search_spaces.layers import IntArray, LayerSpec
from search_spaces.pattern import FP32_BYTES, Pattern

Precision = Literal["fp32", "fp16", "bf16", "int8"]
VALUE_BYTES: dict[str, int] = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
COUNTER_BYTES = 8  # a BatchNorm counts its batches in an int64


def model_bytes(layers: Sequence[LayerSpec], n: int, precision: Precision) -> IntArray:
    """Returns the bytes of all tensors (n,), each weight in its smallest encoding, from layers with sizes (n,).

    - fp32: as `Costs.stored_bytes`.
    - fp16, bf16: every floating value takes 2 bytes.
    - int8: the weights of convolutions and linear layers take 1 byte per value and an fp32 scale per output channel;
      everything else stays fp32, as runtimes have it.

    Raises:
        ValueError: another precision.
    """
    if precision not in VALUE_BYTES:
        raise ValueError(f"precision must be one of {list(VALUE_BYTES)}, but got {precision!r}.")
    value = VALUE_BYTES[precision]
    rest = value if precision != "int8" else FP32_BYTES
    total = np.zeros(n, dtype=np.int64)
    for layer in layers:
        quantised = layer.kind in {"conv", "linear"}
        size = _weight_bytes(layer, value if quantised else rest)
        size = size + rest * (layer.parameters() - layer.weights())
        buffers = layer.buffer_bytes()
        counter = COUNTER_BYTES * (np.asarray(buffers) > 0) if layer.kind == "batchnorm" else 0
        size = size + counter + (buffers - counter) // FP32_BYTES * rest
        if precision == "int8" and quantised:
            size = size + FP32_BYTES * layer.outputs * np.asarray(layer.active)
        total += size
    return total


def _weight_bytes(layer: LayerSpec, value_bytes: int) -> Any:
    """Returns the bytes of the weight in its smallest encoding, with values of this size."""
    saved = FP32_BYTES - value_bytes

    def encoded(pattern: Pattern, outputs: Any, inputs: Any, kernel: Any) -> Any:
        dense = value_bytes * outputs * inputs * kernel * kernel
        own = pattern.own_bytes(outputs, inputs, kernel) - saved * pattern.nonzeros(outputs, inputs, kernel)
        return np.minimum(dense, np.where(pattern.fits(outputs, inputs, kernel), own, dense))

    return layer.by_pattern(lambda p: encoded(p, layer.outputs, layer.inputs // layer.groups, layer.kernel))
