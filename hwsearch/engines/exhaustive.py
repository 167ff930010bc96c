"""Exhaustive search: every architecture of a small space, coarse grids first."""

from __future__ import annotations

import numpy as np

from hwsearch.engines.base import ExactLosses, SearchEngine
from hwsearch.results import History
from search_spaces.populations import not_in
from search_spaces.space import Population, SearchSpace


class Exhaustive(SearchEngine):
    """Goes through the whole space in an order in which every prefix covers it evenly; looks at no result.

    Args:
        space: what to search; at most `max_size` architectures.
        n_objectives: number of losses.
        seed: of the starting point.
        exact: not used.
        max_size: larger spaces are refused.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        n_objectives: int,
        seed: int = 0,
        exact: ExactLosses | None = None,
        max_size: int = 1_000_000,
    ) -> None:
        super().__init__(space, n_objectives=n_objectives, seed=seed, exact=exact)
        if max_size < 1:
            raise ValueError(f"engine.max_size must be at least 1, but got {max_size}.")
        if space.size() > max_size:
            raise ValueError(
                f"engine exhaustive needs a space of at most {max_size:,} architectures, but got {space.size():,}."
            )
        self._order: Population | None = None
        self._max_size = max_size

    def propose(self, history: History, count: int) -> Population:
        """Returns the next up to `count` architectures (k, g) of the order that are not in the history."""
        if self._order is None:
            self._order = self._even_order()
        rest = self._order[not_in(self._order, history.genotypes)]
        return rest[:count]

    def _even_order(self) -> Population:
        """Returns all rows (size, g) along a golden-ratio walk through their lexicographic order.

        Steps of size / golden ratio leave gaps of at most three lengths after any number of steps (three-gap
        theorem), and the lexicographic order puts like rows next to each other.
        """
        rows = self.space.enumerate(self._max_size)
        n = len(rows)
        step = max(1, round(n * 0.6180339887498949))
        while np.gcd(step, n) != 1:
            step += 1
        start = int(np.random.default_rng([self.seed, 0]).integers(n))
        walk: Population = rows[(start + step * np.arange(n)) % n]
        return walk
