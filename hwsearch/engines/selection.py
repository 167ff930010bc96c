"""Selection in evolutionary search: who survives, and who becomes a parent."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hwsearch import pareto


def survivors(
    losses: NDArray[np.float64], violations: NDArray[np.float64], size: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Returns the best `size` rows (k,), best first, and their places (k,): equal places are equally good parents.

    By constrained rank, then by crowding distance within the rank (environmental selection of NSGA-II).

    Args:
        losses: (n, m), no NaN.
        violations: (n, c), at most 0 = kept.
        size: at least 1.
    """
    rank = pareto.constrained_ranks(losses, violations)
    kept: list[NDArray[np.intp]] = []
    crowds: list[NDArray[np.float64]] = []
    missing = min(size, len(losses))
    for value in np.unique(rank):
        rows = np.flatnonzero(rank == value)
        crowd = pareto.crowding(losses[rows])
        best = np.argsort(-crowd, kind="stable")[:missing]
        kept.append(rows[best])
        crowds.append(crowd[best])
        missing -= len(best)
        if missing == 0:
            break
    rows = np.concatenate(kept)
    keys = np.stack([rank[rows].astype(np.float64), -np.concatenate(crowds)], axis=1)
    places = np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)
    return rows, places


def tournament(order: NDArray[np.intp], n: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Returns `n` winners of random pairs (n,): the lower place wins, of equal places the first drawn."""
    pairs = rng.integers(0, len(order), (n, 2))
    first, second = order[pairs[:, 0]], order[pairs[:, 1]]
    winners: NDArray[np.intp] = np.where(second < first, pairs[:, 1], pairs[:, 0])
    return winners
