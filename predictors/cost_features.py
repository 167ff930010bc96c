"""Features made from layer costs: what the hardware is asked to do, by operator kind and kernel, net and stages."""

from __future__ import annotations

import numpy as np

from predictors.base import FloatArray
from predictors.feature_blocks import Block, Reading

BALANCES = (4.0, 16.0, 64.0)
"""MACs per byte at which a device changes from memory-bound to compute-bound."""
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
    for amount in reading.amounts:
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
    for amount in reading.amounts:
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
        return np.array([found.get(c, np.zeros(len(reading))) for c in columns]).T

    return Block(name, columns, matrix, per_column=True)
