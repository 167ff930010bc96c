"""Regularised (ageing) evolution: tournaments among the youngest trials, one mutation per child."""

from __future__ import annotations

import numpy as np

from hwsearch.engines.base import ExactLosses, SearchEngine, filled, fresh_samples, usable
from hwsearch.engines.selection import survivors
from hwsearch.results import History
from search_spaces.populations import not_in, unique_rows
from search_spaces.space import Population, SearchSpace


class Evolution(SearchEngine):
    """Ageing evolution (Real et al. 2019), for any number of objectives and limits.

    The population is the youngest `population` finished trials; a parent is the best of a random `sample` of them (by
    constrained rank and crowding within the population, as there is no single best of several losses); a child is its
    parent with mutated genes. The first `population` trials are random.

    Args:
        space: what to search.
        n_objectives: number of losses.
        seed: of all random choices.
        exact: not used.
        population: how many finished trials are alive.
        sample: how many of them compete to be a parent.
        mutation: chance of every gene to be reset (at least one is); None for 1 / (number of genes).
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        n_objectives: int,
        seed: int = 0,
        exact: ExactLosses | None = None,
        population: int = 50,
        sample: int = 10,
        mutation: float | None = None,
    ) -> None:
        super().__init__(space, n_objectives=n_objectives, seed=seed, exact=exact)
        if population < 2:
            raise ValueError(f"engine.population must be at least 2, but got {population}.")
        if not 1 <= sample <= population:
            raise ValueError(f"engine.sample must be in [1, {population}], but got {sample}.")
        if mutation is not None and not 0.0 <= mutation <= 1.0:
            raise ValueError(f"engine.mutation must be in [0, 1], but got {mutation}.")
        self.population = population
        self.sample = sample
        self.mutation = 1.0 / space.n_genes if mutation is None else mutation

    def propose(self, history: History, count: int) -> Population:
        """Returns up to `count` architectures (k, g): random ones until `population` are known, then children."""
        rng = self.rng(history)
        alive = usable(history)
        alive = alive.only(np.arange(len(alive))[-self.population :])
        n_random = count if len(alive) < 2 else min(count, max(0, self.population - len(history)))
        chosen = fresh_samples(self.space, history.genotypes, n_random, rng)
        if n_random == count:
            return chosen
        rows, order = survivors(alive.losses, alive.violations, len(alive))
        place = np.empty(len(alive), dtype=np.intp)
        place[rows] = order
        for _ in range(20):
            missing = count - len(chosen)
            if missing == 0:
                return chosen
            entrants = rng.integers(0, len(alive), (2 * missing + 8, self.sample))
            best = entrants[np.arange(len(entrants)), place[entrants].argmin(axis=1)]
            children = unique_rows(self.space.mutate(alive.genotypes[best], rng, self.mutation))
            children = children[not_in(children, np.concatenate([history.genotypes, chosen]))]
            chosen = np.concatenate([chosen, children[:missing]])
        return filled(self.space, history, chosen, count, rng)
