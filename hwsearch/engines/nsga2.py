"""NSGA-II with integer operators, steady-state: parents are selected from everything that has finished."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hwsearch.engines.base import ExactLosses, SearchEngine, fresh_samples, usable
from hwsearch.engines.initial import ends
from hwsearch.engines.selection import survivors, tournament
from hwsearch.results import History
from search_spaces.populations import not_in, unique_rows
from search_spaces.space import Population, SearchSpace


class NSGA2(SearchEngine):
    """Non-dominated sorting genetic algorithm II (Deb et al. 2002), for any number of objectives and limits.

    Uniform crossover and reset mutation on choice indices. Limits come first: kept before passed, less passed
    before more (Deb's constrained domination). There are no generations: each call selects its parents from all
    finished trials, so a slow trial holds nobody up, and nothing in the history is proposed again.

    Args:
        space: what to search.
        n_objectives: number of losses.
        seed: of all random choices.
        exact: not used.
        population: how many trials come before the first children, and how many finished ones may be parents.
        crossover: chance that a child has two parents; above 0.5 children of small genes stray too far.
        mutation: chance of every gene to be reset; None for 1 / (number of genes).
        extremes: begin with the smallest and the largest architecture, before random ones: crossover alone reaches the
            ends of a front late. False for the published start, which is random.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        n_objectives: int,
        seed: int = 0,
        exact: ExactLosses | None = None,
        population: int = 20,
        crossover: float = 0.5,
        mutation: float | None = None,
        extremes: bool = True,
    ) -> None:
        super().__init__(space, n_objectives=n_objectives, seed=seed, exact=exact)
        if population < 2:
            raise ValueError(f"engine.population must be at least 2, but got {population}.")
        if not 0.0 <= crossover <= 1.0:
            raise ValueError(f"engine.crossover must be in [0, 1], but got {crossover}.")
        if mutation is not None and not 0.0 <= mutation <= 1.0:
            raise ValueError(f"engine.mutation must be in [0, 1], but got {mutation}.")
        self.population = population
        self.crossover = crossover
        self.extremes = extremes
        self.mutation = 1.0 / space.n_genes if mutation is None else mutation

    def propose(self, history: History, count: int) -> Population:
        """Returns up to `count` architectures (k, g): the start until `population` are known, then children."""
        rng = self.rng(history)
        done = usable(history)
        n_random = min(count, max(0, self.population - len(history)))
        if len(done) < 2:
            n_random = count
        chosen = self._first(history.genotypes)[:n_random]
        seen = np.concatenate([history.genotypes, chosen])
        chosen = np.concatenate([chosen, fresh_samples(self.space, seen, n_random - len(chosen), rng)])
        if n_random < count:
            parents, order = self.select(done.losses, done.violations)
            chosen = self._children(done.genotypes[parents], order, history.genotypes, chosen, count, rng)
        return chosen

    def select(
        self, losses: NDArray[np.float64], violations: NDArray[np.float64]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Returns rows that may be parents, best first, and their places: equal places are equally good.

        Args:
            losses: (n, m), no NaN.
            violations: (n, c).
        """
        return survivors(losses, violations, self.population)

    def _first(self, seen: Population) -> Population:
        """Returns the extremes (k, g) that are asked for and not in `seen`."""
        if not self.extremes:
            return np.zeros((0, self.space.n_genes), dtype=np.uint8)
        first = ends(self.space)
        return first[not_in(first, seen)]

    def _children(
        self,
        parents: Population,
        order: NDArray[np.intp],
        seen: Population,
        chosen: Population,
        count: int,
        rng: np.random.Generator,
        tries: int = 20,
    ) -> Population:
        """Returns `chosen` filled up to `count` rows with new children, or with random rows when children run out."""
        for _ in range(tries):
            missing = count - len(chosen)
            if missing == 0:
                return chosen
            n = 2 * missing + 8
            a, b = tournament(order, n, rng), tournament(order, n, rng)
            children = self.space.crossover(parents[a], parents[b], rng)
            alone = rng.random(n) >= self.crossover
            children[alone] = parents[a[alone]]
            children = unique_rows(self.space.mutate(children, rng, self.mutation))
            children = children[not_in(children, np.concatenate([seen, chosen]))]
            chosen = np.concatenate([chosen, children[:missing]])
        rest = fresh_samples(self.space, np.concatenate([seen, chosen]), count - len(chosen), rng)
        return np.concatenate([chosen, rest])
