"""WeakNAS: a weak predictor ranks a pool, and some of its best are drawn at random."""

from __future__ import annotations

from functools import partial

import numpy as np

from hwsearch import pareto
from hwsearch.engines.base import ExactLosses, SearchEngine, random_first
from hwsearch.engines.predicted import Predicted, random_forest
from hwsearch.engines.selection import survivors
from hwsearch.results import History
from search_spaces.populations import not_in, unique_rows
from search_spaces.space import Population, SearchSpace


class WeakNas(SearchEngine):
    """Progressive search with weak predictors (Wu et al. 2021), for any number of objectives and limits.

    Random trials first; then, for each call: a random forest per loss on everything known, a pool of new architectures
    (half uniform, half mutated from the front), its best `top` by predicted constrained rank and crowding, and of
    these `count` at random.

    Args:
        space: what to search.
        n_objectives: number of losses.
        seed: of all random choices.
        exact: losses that need no predictor.
        initial: random trials at the start.
        pool: architectures that are ranked in a call.
        top: of how many a batch is drawn.
        trees: of every forest.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        n_objectives: int,
        seed: int = 0,
        exact: ExactLosses | None = None,
        initial: int = 20,
        pool: int = 2000,
        top: int = 40,
        trees: int = 50,
    ) -> None:
        super().__init__(space, n_objectives=n_objectives, seed=seed, exact=exact)
        if initial < 2:
            raise ValueError(f"engine.initial must be at least 2, but got {initial}.")
        if not 1 <= top <= pool:
            raise ValueError(f"engine.top must be in [1, {pool}], but got {top}.")
        if trees < 1:
            raise ValueError(f"engine.trees must be at least 1, but got {trees}.")
        self.initial, self.pool, self.top, self.trees = initial, pool, top, trees

    def propose(self, history: History, count: int) -> Population:
        """Returns up to `count` architectures (k, g): random ones until `initial` are known, then drawn of the best."""
        best = partial(self._drawn, history)
        return random_first(self, history, count, initial=self.initial, informed=best)

    def _drawn(
        self, history: History, done: History, seen: Population, count: int, rng: np.random.Generator
    ) -> Population:
        front = done.genotypes[pareto.constrained_ranks(done.losses, done.violations) == 0]
        near = self.space.mutate(front[rng.integers(0, len(front), self.pool // 2)], rng, 2.0 / self.space.n_genes)
        pool = unique_rows(np.concatenate([self.space.sample(self.pool - len(near), rng), near]))
        pool = pool[not_in(pool, seen)]
        if not len(pool):
            return pool
        predicted = Predicted(self.space, history, exact=self.exact, learner=partial(random_forest, n_trees=self.trees))
        rows, _ = survivors(predicted.losses(pool), predicted.violations(pool), max(self.top, count))
        return rng.permutation(pool[rows])[:count]
