"""NSGA-III, steady-state: fronts of many objectives kept even by reference directions."""

from __future__ import annotations

from math import comb

import numpy as np
from numpy.typing import NDArray

from hwsearch import pareto
from hwsearch.engines.base import ExactLosses
from hwsearch.engines.nsga2 import NSGA2
from search_spaces.space import SearchSpace

FloatArray = NDArray[np.float64]


class NSGA3(NSGA2):
    """Non-dominated sorting genetic algorithm III (Deb & Jain 2014), for any number of objectives and limits.

    As our NSGA-II, but the last rank that fits is thinned by niches around evenly spread reference directions instead
    of by crowding, which means little with more than three objectives. Parents compete by constrained rank, then by
    how few others share their niche.

    Args:
        space: what to search.
        n_objectives: number of losses.
        seed: of all random choices.
        exact: not used.
        population: how many trials come before the first children, and how many finished ones may be parents.
        crossover: chance that a child has two parents.
        mutation: chance of every gene to be reset; None for 1 / (number of genes).
        extremes: begin with the smallest and the largest architecture, before random ones.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        n_objectives: int,
        seed: int = 0,
        exact: ExactLosses | None = None,
        population: int = 20,
        crossover: float = 0.9,
        mutation: float | None = None,
        extremes: bool = True,
    ) -> None:
        super().__init__(
            space,
            n_objectives=n_objectives,
            seed=seed,
            exact=exact,
            population=population,
            crossover=crossover,
            mutation=mutation,
            extremes=extremes,
        )
        self.directions = reference_directions(n_objectives, population)

    def select(self, losses: FloatArray, violations: FloatArray) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Returns rows that may be parents, best first, and their places; see `selection.survivors`."""
        rank = pareto.constrained_ranks(losses, violations)
        niche, distance = associate(losses, rank == 0, self.directions)
        size = min(self.population, len(losses))
        order = np.argsort(rank, kind="stable")
        last = rank[order[size - 1]]
        kept = list(np.flatnonzero(rank < last))
        count = np.bincount(niche[kept], minlength=len(self.directions))
        pool = np.flatnonzero(rank == last)
        # From the emptiest niche the point nearest to its direction, until the population is full.
        while len(kept) < size:
            best = pool[np.lexsort([distance[pool], count[niche[pool]]])[0]]
            kept.append(best)
            count[niche[best]] += 1
            pool = pool[pool != best]
        rows = np.array(kept, dtype=np.intp)
        keys = np.stack([rank[rows], count[niche[rows]]], axis=1)
        return rows, np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)


def reference_directions(m: int, count: int) -> FloatArray:
    """Returns evenly spread points (k, m) on the unit simplex, k at most about `count` but at least m.

    Das & Dennis 1998: all points whose coordinates are multiples of 1 / p, with the largest p that fits.
    """
    if m == 1:
        return np.ones((1, 1))
    p = 1
    while comb(p + m, m - 1) <= count:
        p += 1

    def parts(total: int, places: int) -> list[tuple[int, ...]]:
        if places == 1:
            return [(total,)]
        return [(first, *rest) for first in range(total + 1) for rest in parts(total - first, places - 1)]

    return np.array(parts(p, m), dtype=np.float64) / p


def associate(
    losses: FloatArray, front: NDArray[np.bool_], directions: FloatArray
) -> tuple[NDArray[np.intp], FloatArray]:
    """Returns for every point the nearest direction (n,) and its perpendicular distance to it (n,).

    Losses are shifted by the ideal point and divided by the span of the front: the extreme points of the hyperplane
    construction in the paper are often degenerate for the small fronts of dear evaluations.

    Args:
        losses: (n, m).
        front: (n,) which rows the scale is taken from.
        directions: (k, m).
    """
    low = losses[front].min(axis=0)
    span = losses[front].max(axis=0) - low
    wide = losses.max(axis=0) - low
    span = np.where(span > 0, span, np.where(wide > 0, wide, 1.0))
    scaled = (losses - low) / span
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    along = scaled @ unit.T  # (n, k)
    across = np.sqrt(np.maximum((scaled**2).sum(axis=1)[:, None] - along**2, 0.0))
    nearest = across.argmin(axis=1)
    return nearest, across[np.arange(len(losses)), nearest]
