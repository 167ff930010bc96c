"""LINAS: light predictors are refitted after every batch, and an evolution on them proposes the next one."""

from __future__ import annotations

from functools import partial

import numpy as np

from hwsearch import pareto
from hwsearch.engines.base import ExactLosses, SearchEngine, random_first
from hwsearch.engines.evolve import evolve
from hwsearch.engines.predicted import Predicted, ridge_or_svr
from hwsearch.results import History
from search_spaces.populations import not_in
from search_spaces.space import Population, SearchSpace


class Linas(SearchEngine):
    """LINAS (Cummings et al. 2022; Sarah et al. 2022), for any number of objectives and limits.

    Random trials first; then, for each call, ridge or support vector regression per loss on everything known, NSGA-II
    on the predictions, and its final population is what is evaluated. Repaired where the published code stalls: start
    and proposals are distinct and new, every call draws other random numbers, its parents include the best known
    trials, and mutation resets genes (polynomial mutation, rounded, leaves small integers as they are).

    Args:
        space: what to search.
        n_objectives: number of losses.
        seed: of all random choices.
        exact: losses that need no predictor.
        population: random trials at the start, and survivors of the inner evolution.
        inner: candidates of the inner evolution.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        n_objectives: int,
        seed: int = 0,
        exact: ExactLosses | None = None,
        population: int = 20,
        inner: int = 5000,
    ) -> None:
        super().__init__(space, n_objectives=n_objectives, seed=seed, exact=exact)
        if population < 2:
            raise ValueError(f"engine.population must be at least 2, but got {population}.")
        if inner < population:
            raise ValueError(f"engine.inner must be at least engine.population = {population}, but got {inner}.")
        self.population = population
        self.inner = inner

    def propose(self, history: History, count: int) -> Population:
        """Returns up to `count` architectures (k, g): random ones until `population` are known, then predicted best."""
        best = partial(self._best, history)
        return random_first(self, history, count, initial=self.population, informed=best)

    def _best(
        self, history: History, done: History, seen: Population, count: int, rng: np.random.Generator
    ) -> Population:
        predicted = Predicted(self.space, history, exact=self.exact, learner=ridge_or_svr)
        front = pareto.constrained_ranks(done.losses, done.violations) == 0
        # Known rows crowd the inner population: it must be large enough to hold new ones beside them.
        survive = self.population + count + int(front.sum())
        evolved = evolve(
            self.space,
            predicted.losses,
            rng=rng,
            n_candidates=self.inner,
            survive=survive,
            offspring=min(500, self.inner),
            start=done.genotypes[front],
            limits=predicted.violations if history.violations.shape[1] else None,
        )
        new = not_in(evolved.population, seen)
        rank = pareto.constrained_ranks(evolved.losses[new], evolved.violations[new])
        # The published step validates the final population as it stands; of one rank, a smaller batch is any part.
        order = np.lexsort([rng.random(len(rank)), rank])
        return evolved.population[new][order[:count]]
