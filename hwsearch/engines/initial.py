"""The first architectures of a search: the extremes, then ones that differ as much as possible in what matters."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from hwsearch import pareto
from hwsearch.engines.encoding import Encoding, roles
from hwsearch.engines.evolve import evolve
from search_spaces.populations import not_in, unique_rows
from search_spaces.space import Population, SearchSpace

FloatArray = NDArray[np.float64]

CONCENTRATION = 0.7
"""Of the Dirichlet distribution of mixtures: below 1, mixtures of few choices are as common as even ones."""

CHANCE = 0.25
"""Deviation of what choices bring by themselves in a guess made before any label, where that of the costs is 1."""


def spread_sample(space: SearchSpace, n: int, rng: np.random.Generator) -> Population:
    """Returns `n` architectures (n, g) whose composition varies widely, duplicates among them.

    Uniform samples of many genes all have nearly the same composition: a third of their kernels are 3 wide, a third
    are 5 wide, ... Here every role draws its own mixture of choices first, which in two of three rows drifts along
    the depth, so that the samples reach from all-small to all-large networks.
    """
    population = space.sample(n, rng)
    for positions in roles(space):
        if len(positions) < 2:
            continue
        first, last = rng.dirichlet(np.full(len(space.genes[positions[0]].choices), CONCENTRATION), (2, n))
        last[: n // 3] = first[: n // 3]
        for i, position in enumerate(positions):
            share = i / (len(positions) - 1)
            edges = np.cumsum((1 - share) * first + share * last, axis=1)
            population[:, position] = (rng.random(n)[:, None] * edges[:, -1:] > edges[:, :-1]).sum(axis=1)
    return space.canonical(population)


def extremes(space: SearchSpace, pool: Population, costs: FloatArray) -> Population:
    """Returns the cheapest and the dearest row of a pool in every column of costs (n, e).

    Where there are no costs (e = 0), the smallest and the largest architecture of the space.
    """
    if costs.shape[1]:
        return unique_rows(pool[np.stack([costs.argmin(axis=0), costs.argmax(axis=0)], axis=1).ravel()])
    return ends(space)


def ends(space: SearchSpace) -> Population:
    """Returns the smallest and the largest architecture (2, g) of a space; (1, g) if they are one."""
    return unique_rows(np.stack([space.row(space.smallest()), space.row(space.largest())]))


def farthest_first(
    encoding: Encoding, chosen: Population, pool: Population, count: int, *, power: float = 4.0
) -> Population:
    """Returns up to `count` rows of a pool (k, g), well spread among each other and the chosen ones, best first.

    Greedy, by the smallest energy sum 1 / distance ** power over the coarse features (minimum-energy designs, Joseph
    et al. 2015): evenly spread, and less fond of corners than the largest smallest distance is.
    """
    pool = unique_rows(pool)
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


def likely_members(
    encoding: Encoding,
    chosen: Population,
    count: int,
    *,
    exact: Callable[[Population], FloatArray],
    space: SearchSpace,
    pool: Population | None,
    rng: np.random.Generator,
) -> Population:
    """Returns up to `count` further rows (k, g) for a design, each on the front of a guess of what is not known yet.

    With exact costs much can be said before the first label: whatever the losses to be learned are, a network that
    pays for what brings little is on no front. For every row these losses are drawn from a prior (falling with the
    costs, otherwise linear in the features with small random weights: large ones favour odd networks); of the front of
    the draw and the exact losses, the row is taken whose costs are farthest from those of the rows before it. Thompson
    sampling before any data.

    Args:
        encoding: with the logarithms of the exact losses in its outside blocks.
        chosen: (n, g) rows of the design so far, not to be returned.
        count: at most so many.
        exact: rows -> losses (n, m), NaN where they must be learned; at least one column of each kind.
        space: of the rows.
        pool: all architectures of the space if these are few, else None.
        rng: of all random choices.
    """
    rows = chosen
    n_learned = int(np.isnan(exact(chosen)).any(axis=0).sum())
    falling: FloatArray = sum((-m.sum(axis=1) for m in encoding.outside_maps), np.zeros(encoding.n_features))
    for _ in range(count):
        draws = [
            sum(CHANCE * m @ rng.standard_normal(m.shape[1]) for m in encoding.inside_maps) for _ in range(n_learned)
        ]
        guessed = partial(_guessed, encoding, exact, falling[:, None] + np.stack(draws, axis=1))
        if pool is None:
            start = np.concatenate([rows, spread_sample(space, 100, rng)])
            found = evolve(space, guessed, rng=rng, n_candidates=1500, survive=100, offspring=300, start=start)
            front = found.population[pareto.front(found.losses)]
        else:
            front = pool[pareto.front(guessed(pool))]
        front = front[not_in(front, rows)]
        if len(front):
            gap = encoding.outside(front)[:, None] - encoding.outside(rows)  # (f, n, k)
            energy = (1.0 / np.maximum((gap**2).sum(axis=2), 1e-9)).sum(axis=1)
            rows = np.concatenate([rows, front[[int(np.argmin(energy))]]])
    return rows[len(chosen) :]


def _guessed(
    encoding: Encoding, exact: Callable[[Population], FloatArray], weights: FloatArray, population: Population
) -> FloatArray:
    """Returns losses (n, m): exact ones, and in place of the others linear ones with weights (d, those)."""
    losses = exact(population).copy()
    losses[:, np.isnan(losses).any(axis=0)] = encoding.features(population) @ weights
    return losses
