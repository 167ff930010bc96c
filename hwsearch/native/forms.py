"""Forms: how each weight matrix is stored and multiplied - dense, in pairs of sparse rows, or in groups of rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hwsearch.native.nodes import FloatArray
from hwsearch.native.packing import GROUP, IntArray, block_count, pack_groups, pack_pairs

L1_BYTES = 24 * 1024
PAIRS_TILE = 7
SHARING = 1.6
"""Groups of rows are tried where they have at most so many times the rows' own inputs."""


@dataclass(frozen=True)
class Form:
    """How a matrix is multiplied.

    Args:
        name: `dense`, `pairs` or `groups`.
        kernel: the C function.
    """

    name: str
    kernel: str


FORMS = {
    "dense": Form("dense", "hw_groups"),
    "groups": Form("groups", "hw_groups"),
    "pairs": Form("pairs", "hw_pairs"),
}
Choose = Callable[[FloatArray, int], str]
"""(weight (outputs, inputs), floats per row of the input) -> name of a form."""


def candidates(weight: FloatArray) -> list[str]:
    """Returns the forms that may be best for a matrix: dense always, sparse ones where there are zeros to leave out."""
    density = np.count_nonzero(weight) / max(weight.size, 1)
    names = ["dense"]
    if density < 0.85 and shared_density(weight) <= min(0.9, SHARING * density):
        names.append("groups")
    if density < 0.7:
        names.append("pairs")
    return names


def rule(weight: FloatArray, stride: int) -> str:
    """Returns a form without measuring, for machines that cannot be measured: the fewest products, weighted."""
    del stride
    density = np.count_nonzero(weight) / max(weight.size, 1)
    cost = {"dense": 1.0, "groups": shared_density(weight) + 0.05, "pairs": 1.6 * density + 0.03}
    return min(candidates(weight), key=lambda name: cost[name])


def shared_density(weight: FloatArray) -> float:
    """Returns the share of inputs that groups of `GROUP` neighbouring rows need."""
    outputs, inputs = weight.shape
    groups = -(-outputs // GROUP)
    padded = np.zeros((groups * GROUP, inputs), bool)
    padded[:outputs] = weight != 0
    return float(padded.reshape(groups, GROUP, inputs).any(axis=1).mean()) if weight.size else 0.0


def pack(weight: FloatArray, form: str, *, stride: int, vector: int) -> IntArray:
    """Returns the stream that the form's kernel reads.

    Args:
        weight: (outputs, inputs).
        form: a name of `FORMS`.
        stride: floats per row of the input.
        vector: floats per vector.
    """
    inputs = weight.shape[1]
    tile = 4 * vector * (PAIRS_TILE if form == "pairs" else 3 if vector < 16 else 6)
    together = min(16, max(1, L1_BYTES // (tile * max(inputs, 1))))
    if form == "pairs":
        blocks = block_count(inputs, vector)
        return pack_pairs(weight, stride=stride, block=-(-inputs // blocks) if inputs else None, together=together)
    return pack_groups(weight, stride=stride, dense=form == "dense", together=together)
