"""Pareto fronts: non-dominated ranks, crowding and hypervolume, all on losses (smaller is better)."""

from __future__ import annotations

from dataclasses import dataclass

import moocore
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


def front(losses: FloatArray) -> NDArray[np.bool_]:
    """Returns which points (n,) no other point dominates; of equal points all stay. Rows with NaN never belong.

    Args:
        losses: (n, m).
    """
    losses = np.asarray(losses, dtype=np.float64)
    known = ~np.isnan(losses).any(axis=1)
    mask = np.zeros(len(losses), dtype=bool)
    if known.any():
        if losses.shape[1] == 1:
            mask[known] = losses[known, 0] == losses[known, 0].min()
        else:
            mask[known] = moocore.is_nondominated(losses[known], keep_weakly=True)
    return mask


def overlapping(losses: NDArray[np.float64], half_widths: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Returns (n, n) which rows have intervals (n, m) that overlap in every column; none with a missing loss."""
    gaps = np.abs(losses[:, None] - losses[None])
    return np.asarray((gaps <= half_widths[:, None] + half_widths[None]).all(axis=2))


def beyond(losses: FloatArray, absent: NDArray[np.bool_]) -> FloatArray:
    """Returns losses (n, m) whose absent entries lie a tenth of the known span beyond the worst of their column.

    What cannot be had at all (a net on a device that does not take its precision) is so worse than anything that can,
    and still a number: nets of different devices never beat one another, and their front is the union of the fronts.
    A column of which nothing is known becomes 0.

    Args:
        losses: (n, m), NaN where not known.
        absent: (n, m), which entries to fill.
    """
    filled = np.array(losses, dtype=np.float64)
    for j in np.flatnonzero(absent.any(axis=0)):
        known = filled[np.isfinite(filled[:, j]) & ~absent[:, j], j]
        if len(known) == 0:
            filled[absent[:, j], j] = 0.0
            continue
        span = float(known.max() - known.min()) or abs(float(known.max())) or 1.0
        filled[absent[:, j], j] = known.max() + 0.1 * span
    return filled


def ranks(losses: FloatArray) -> NDArray[np.int64]:
    """Returns the non-dominated rank of every point (n,), 0 = front (Deb et al. 2002, fast non-dominated sort)."""
    losses = np.ascontiguousarray(losses, dtype=np.float64)
    if len(losses) == 0:
        return np.zeros(0, dtype=np.int64)
    if losses.shape[1] == 1:
        return np.unique(losses[:, 0], return_inverse=True)[1].astype(np.int64)
    return np.asarray(moocore.pareto_rank(losses), dtype=np.int64)


def total_violation(violations: FloatArray) -> FloatArray:
    """Returns by how much all limits together are passed (n,): 0 = all kept, infinite where one is not known.

    Each column counts in units of the largest known excess, so that a limit in bytes does not drown one in ms.

    Args:
        violations: (n, c), one column per limit; at most 0 = kept.
    """
    excess = np.maximum(np.asarray(violations, dtype=np.float64), 0.0)
    finite = np.where(np.isfinite(excess), excess, 0.0)
    scale = finite.max(axis=0, initial=0.0)
    total: FloatArray = (finite / np.where(scale > 0, scale, 1.0)).sum(axis=1)
    total[~np.isfinite(excess).all(axis=1)] = np.inf
    return total


def constrained_ranks(losses: FloatArray, violations: FloatArray) -> NDArray[np.int64]:
    """Returns ranks (n,) with limits first (Deb et al. 2002, constrained domination).

    Rows that keep all limits are ranked by domination; the others come after them, by how much they pass limits.

    Args:
        losses: (n, m), no NaN.
        violations: (n, c), at most 0 = kept, NaN = not known (ranked last).
    """
    total = total_violation(violations)
    kept = total == 0
    result = np.zeros(len(losses), dtype=np.int64)
    result[kept] = ranks(losses[kept])
    after = result[kept].max() + 1 if kept.any() else 0
    result[~kept] = after + np.unique(total[~kept], return_inverse=True)[1]
    return result


def crowding(losses: FloatArray) -> FloatArray:
    """Returns the crowding distance of points of one rank (n,), infinite at the extremes (Deb et al. 2002)."""
    n, m = losses.shape
    distance = np.zeros(n)
    if n == 0:
        return distance
    for j in range(m):
        order = np.argsort(losses[:, j], kind="stable")
        values = losses[order, j]
        span = values[-1] - values[0]
        if span > 0:
            distance[order[1:-1]] += (values[2:] - values[:-2]) / span
        distance[order[[0, -1]]] = np.inf
    return distance


def hypervolume(losses: FloatArray, reference: FloatArray) -> float:
    """Returns the volume that the points dominate below `reference` (m,); points beyond it add nothing."""
    losses = np.asarray(losses, dtype=np.float64)
    losses = losses[~np.isnan(losses).any(axis=1)]
    losses = losses[(losses < reference).all(axis=1)]
    if len(losses) == 0:
        return 0.0
    if losses.shape[1] == 1:
        return float(reference[0] - losses.min())
    return float(moocore.hypervolume(losses, ref=np.asarray(reference, dtype=np.float64)))


@dataclass(frozen=True)
class Box:
    """What hypervolumes are shares of: the box between the best and the worst value of every objective.

    Args:
        low, high: (m,) losses.
    """

    low: FloatArray
    high: FloatArray

    @classmethod
    def of(cls, losses: FloatArray) -> Box:
        """Returns the box that holds these losses (n, m), n at least 1."""
        return cls(losses.min(axis=0), losses.max(axis=0))

    def share(self, losses: FloatArray) -> float:
        """Returns the share of the box that losses (n, m) dominate, between 0 and 1."""
        span = np.where(self.high > self.low, self.high - self.low, 1.0)
        # A loss better than the box counts as its edge, so that a share stays one; 1.01 lets the worst point count.
        scaled = np.clip((losses - self.low) / span, 0.0, None)
        return hypervolume(scaled, np.full(len(self.low), 1.01)) / 1.01 ** len(self.low)
