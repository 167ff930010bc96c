"""Features made from layer costs: what the hardware is asked to do, by operator kind and kernel, net and stages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from predictors.base import FloatArray
from predictors.feature_blocks import Block, Reading
from search_spaces.layers import LayerSpec

BALANCES = (4.0, 16.0, 64.0)
"""MACs per byte at which a device changes from memory-bound to compute-bound."""
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
        return np.broadcast_to(np.asarray(size, dtype=np.float64), (n,))

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
            for side in np.unique(kernel):
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


MEASURES = ("macs", "moved", "weights", "launches")


def cost_blocks(name: str, reference: Reading, *, batch: int) -> list[Block]:
    """Returns the blocks of `costs` (net, stage) or of `roofline`; columns are those that `reference` has."""
    if name == "roofline":
        return [_block("roofline", reference, lambda reading: _roofline(reading, batch))]
    stages = {layer.stage for layer in reference.layers}
    blocks = [_block("costs.net", reference, lambda reading: _sums(reading, stages=False))]
    if len(stages) > 1:
        blocks.append(_block("costs.stage", reference, lambda reading: _sums(reading, stages=True)))
    return blocks


def _sums(reading: Reading, *, stages: bool) -> dict[str, FloatArray]:
    """Returns column name -> (n,): every measure of every operator kind, summed over the net or over each stage."""
    n = len(reading)
    out: dict[str, FloatArray] = {}
    for amount in amounts(reading.layers, n):
        place = amount.stage if stages else "net"
        for measure in MEASURES:
            column = out.setdefault(f"{place}.{amount.kind}.{measure}", np.zeros(n))
            column += getattr(amount, measure)
    return out


def _roofline(reading: Reading, batch: int) -> dict[str, FloatArray]:
    """Returns column name -> (n,): sum over layers of max(MACs / balance, bytes), fp32, per kind and balance.

    The time of a layer is the larger of arithmetic and memory time (Williams et al. 2009); in bytes, at balance b of a
    device, max(macs / b, bytes). A non-negative combination over several b covers devices in between.
    """
    n = len(reading)
    out: dict[str, FloatArray] = {}
    for amount in amounts(reading.layers, n):
        moved = 4.0 * (batch * amount.moved + amount.weights)
        for balance in BALANCES:
            column = out.setdefault(f"{amount.kind} bytes at {balance:g} MACs/byte", np.zeros(n))
            column += np.maximum(batch * amount.macs / balance, moved)
    return out


def _block(name: str, reference: Reading, sums: object) -> Block:
    """Returns a block with the columns that `sums` gives for the reference."""
    assert callable(sums)
    columns = tuple(sums(reference))
    known = set(columns)

    def matrix(reading: Reading) -> FloatArray:
        found = sums(reading)
        extra = [c for c in found if c not in known and np.any(found[c])]
        if extra:
            raise ValueError(f"layer costs must be of the kinds that the space's samples show, but got {extra[0]!r}.")
        return np.stack([found.get(c, np.zeros(len(reading))) for c in columns], axis=1)

    return Block(name, columns, matrix, per_column=True)
