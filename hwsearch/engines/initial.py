"""The first architectures of a search: the extremes, then ones that differ as much as possible in what matters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hwsearch.engines.encoding import Encoding, roles
from search_spaces.space import Population, SearchSpace, not_in, unique_rows

FloatArray = NDArray[np.float64]


def spread_sample(space: SearchSpace, n: int, rng: np.random.Generator) -> Population:
    """Returns `n` architectures (n, g) whose composition varies widely.

    Uniform samples of many genes all have nearly the same composition: a fifth of their kernels are 7 wide, a fifth
    5 wide, ... Here every role draws its own mixture of choices first (Dirichlet, concentration 0.7), which may drift
    along the depth, so that the samples reach from all-small to all-large nets.
    """
    population = space.sample(n, rng)
    for positions in roles(space):
        if len(positions) < 2:
            continue
        k = len(space.genes[positions[0]].choices)
        ends = rng.dirichlet(np.full(k, 0.7), (2, n))
        # One third of the rows has one mixture all along.
        ends[1][: n // 3] = ends[0][: n // 3]
        for i, position in enumerate(positions):
            share = i / (len(positions) - 1)
            edges = np.cumsum((1 - share) * ends[0] + share * ends[1], axis=1)
            drawn = (rng.random(n)[:, None] * edges[:, -1:] > edges[:, :-1]).sum(axis=1)
            population[:, position] = drawn
    return space.canonical(population)


def extremes(space: SearchSpace, pool: Population, costs: FloatArray) -> Population:
    """Returns the cheapest and the dearest row of a pool in every column of costs (n, e), else smallest and largest."""
    if costs.shape[1]:
        rows = np.stack([costs.argmin(axis=0), costs.argmax(axis=0)], axis=1).ravel()
        return unique_rows(pool[rows])
    ends = np.stack([space.row(space.smallest()), space.row(space.largest())])
    return unique_rows(ends)


def farthest_first(
    encoding: Encoding, chosen: Population, pool: Population, count: int, *, power: float = 4.0
) -> Population:
    """Returns `count` rows of a pool (k, g) that lie well spread among each other and the chosen ones, best first.

    Greedy, by the smallest energy sum 1 / distance ** power over coarse features (compare minimum-energy designs,
    Joseph et al. 2015): evenly spread, and less fond of corners than the largest smallest distance is.
    """
    pool = pool[not_in(pool, chosen)]
    features = encoding.coarse(pool)
    energy = np.zeros(len(pool))
    picked: list[int] = []

    def add(point: FloatArray) -> None:
        distance = ((features - point) ** 2).sum(axis=1)
        energy[:] += 1.0 / np.maximum(distance, 1e-9) ** (power / 2)

    for point in encoding.coarse(chosen):
        add(point)
    for _ in range(min(count, len(pool))):
        best = int(np.argmin(energy))
        picked.append(best)
        add(features[best])
        energy[best] = np.inf
    return pool[picked]
