"""Units: the smallest things that can be removed from a network, found by coupling entries of tensor axes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Label = NDArray[np.int64]
"""One entry number per position of an axis, (size of the axis,)."""
Axes = tuple[Label | None, ...]
"""One label per axis of a tensor; None for an axis that keeps its size."""


@dataclass(frozen=True)
class Units:
    """What stays or goes together.

    Args:
        of: entry -> unit, (entries,).
        reasons: unit -> why it always stays.
    """

    of: NDArray[np.int64]
    reasons: Mapping[int, str]


class Coupling:
    """Collects which entries of which axes stay or go together, and which have to stay."""

    def __init__(self) -> None:
        self.count = 0
        self._pairs: list[tuple[Label, Label]] = []
        self._pinned: list[tuple[Label, str]] = []

    def fresh(self, size: int) -> Label:
        """Returns a label of new entries for an axis of this size."""
        label = np.arange(self.count, self.count + size, dtype=np.int64)
        self.count += size
        return label

    def pin(self, label: Label | None, reason: str) -> None:
        """Keeps all entries of an axis, for a reason that users are told."""
        if label is not None:
            self._pinned.append((label, reason))

    def couple(self, one: Label | None, other: Label | None, reason: str) -> Label | None:
        """Makes two axes lose the same positions; returns the label of both. An axis without label pins the other."""
        if one is None or other is None:
            self.pin(one, reason)
            self.pin(other, reason)
            return None
        self._pairs.append((one, other))
        return one

    def blocks(self, label: Label, count: int) -> Label:
        """Couples the entries within each of `count` equal blocks of an axis; returns one entry per block (count,)."""
        grid = label.reshape(count, -1)
        if grid.shape[1] > 1:
            self._pairs.append((np.repeat(grid[:, 0], grid.shape[1] - 1), grid[:, 1:].ravel()))
        return grid[:, 0].copy()

    def solve(self) -> Units:
        """Returns the units: connected components of what was coupled."""
        root = np.arange(self.count, dtype=np.int64)
        if self._pairs:
            a = np.concatenate([pair[0] for pair in self._pairs])
            b = np.concatenate([pair[1] for pair in self._pairs])
            while True:
                low = np.minimum(root[a], root[b])
                before = root.copy()
                for side in (a, b):
                    np.minimum.at(root, root[side], low)
                root = root[root]
                if np.array_equal(root, before):
                    break
        reasons: dict[int, str] = {}
        for label, reason in self._pinned:
            for unit in np.unique(root[label]):
                reasons.setdefault(int(unit), reason)
        return Units(root, reasons)
