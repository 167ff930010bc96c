"""Pareto fronts: non-dominated ranks, crowding and hypervolume, all on losses (smaller is better)."""

from __future__ import annotations

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


def ranks(losses: FloatArray) -> NDArray[np.int64]:
    """Returns the non-dominated rank of every point (n,), 0 = front (Deb et al. 2002, fast non-dominated sort)."""
    losses = np.ascontiguousarray(losses, dtype=np.float64)
    if len(losses) == 0:
        return np.zeros(0, dtype=np.int64)
    if losses.shape[1] == 1:
        return np.unique(losses[:, 0], return_inverse=True)[1].astype(np.int64)
    return np.asarray(moocore.pareto_rank(losses), dtype=np.int64)


def crowding(losses: FloatArray) -> FloatArray:
    """Returns the crowding distance of points of one rank (n,), infinite at the extremes (Deb et al. 2002)."""
    n, m = losses.shape
    distance = np.zeros(n)
    for j in range(m):
        order = np.argsort(losses[:, j], kind="stable")
        values = losses[order, j]
        span = values[-1] - values[0] if n else 0.0
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
