"""Amounts: what each operator of a net asks of the hardware, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from predictors.base import FloatArray
from search_spaces.layers import LayerSpec

FREE = frozenset({"batchnorm"})
"""Kinds that every inference engine folds into the convolution before them."""


@dataclass(frozen=True)
class Amounts:
    """What one kind of operator of one layer asks for, each (n,): zero where it is not that kind or not there."""

    kind: str
    stage: str
    macs: FloatArray
    moved: FloatArray  # values read and written per example
    weights: FloatArray
    launches: FloatArray


def amounts(layers: list[LayerSpec], n: int) -> Iterator[Amounts]:
    """Yields what each layer asks for, per operator kind; grouped convolutions are told apart by their kernel."""

    def full(size: object) -> FloatArray:
        array = np.asarray(size, dtype=np.float64)
        return array if array.ndim else np.full(n, float(array))

    for layer in layers:
        if layer.kind in FREE:
            continue
        there = full(layer.active)
        moved = (full(layer.inputs) * full(layer.positions_in) + full(layer.outputs) * full(layer.positions)) * there
        macs, weights = full(layer.macs()), full(layer.parameters())
        kernel = np.asarray(layer.kernel)
        kind = operator_kind(layer)
        if kind != "grouped":
            yield Amounts(kind, layer.stage, macs, moved, weights, there)
        else:
            for side in np.flatnonzero(np.bincount(kernel.ravel())):  # as np.unique, in a tenth of the time
                one = full(kernel == side)
                yield Amounts(f"grouped{side}x{side}", layer.stage, macs * one, moved * one, weights * one, there * one)
        for i, pattern in enumerate(layer.patterns):
            if pattern.name != "dense" and layer.may_be_sparse:
                chosen = full(np.asarray(layer.pattern) == i)
                share = full(layer.nonzeros()) / np.maximum(full(layer.weights()), 1.0)
                kept = chosen * share
                # Non-zeros are a kind of their own: engines that skip zeros and those that do not both find a weight.
                yield Amounts(pattern.name, layer.stage, macs * kept, moved * chosen, weights * kept, there * chosen)


def operator_kind(layer: LayerSpec) -> str:
    """Returns conv1x1, conv, grouped, linear or the layer's own kind; a convolution of one pixel is linear."""
    if layer.kind != "conv":
        return layer.kind
    if isinstance(layer.positions, int) and layer.positions == 1:
        return "linear"
    if not isinstance(layer.groups, int) or layer.groups > 1:
        return "grouped"
    return "conv1x1" if isinstance(layer.kernel, int) and layer.kernel == 1 else "conv"
