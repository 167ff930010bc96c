"""Pareto local search: the neighbours of the front's members, least explored member first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hwsearch import pareto
from hwsearch.engines.base import ExactLosses, SearchEngine, filled, fresh_samples, usable
from hwsearch.results import History
from search_spaces.populations import not_in, unique_rows
from search_spaces.space import Population, SearchSpace


class LocalSearch(SearchEngine):
    """Pareto local search (Paquete, Chiarandini & Stuetzle 2004), for any number of objectives and limits.

    A few random starts; then always an untried neighbour (one gene changed) of the member of the front (of trials that
    keep the limits, else of those that pass them least) of which the smallest share of neighbours is tried. When all
    neighbours of the front are known, neighbours of the next rank follow.

    Args:
        space: what to search.
        n_objectives: number of losses.
        seed: of all random choices.
        exact: not used.
        starts: number of random trials to begin with.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        n_objectives: int,
        seed: int = 0,
        exact: ExactLosses | None = None,
        starts: int = 10,
    ) -> None:
        super().__init__(space, n_objectives=n_objectives, seed=seed, exact=exact)
        if starts < 1:
            raise ValueError(f"engine.starts must be at least 1, but got {starts}.")
        self.starts = starts

    def propose(self, history: History, count: int) -> Population:
        """Returns up to `count` architectures (k, g): random starts, then neighbours of the best trials."""
        rng = self.rng(history)
        done = usable(history)
        n_random = count if not len(done) else min(count, max(0, self.starts - len(history)))
        chosen = fresh_samples(self.space, history.genotypes, n_random, rng)
        if len(chosen) < count and len(done):
            rank = pareto.constrained_ranks(done.losses, done.violations)
            for value in np.unique(rank)[:8]:
                seen = np.concatenate([history.genotypes, chosen])
                more = self._around(done.genotypes[rank == value], seen, count - len(chosen), rng)
                chosen = np.concatenate([chosen, more])
                if len(chosen) == count:
                    break
        return filled(self.space, history, chosen, count, rng)

    def _around(self, members: Population, seen: Population, count: int, rng: np.random.Generator) -> Population:
        """Returns up to `count` new neighbours, one after another of the member whose neighbours are least tried."""
        queues: list[Population] = []
        tried: list[float] = []
        for member in members:
            around = neighbours(self.space, member)
            new = rng.permutation(around[not_in(around, seen)])
            queues.append(new)
            tried.append(1.0 - len(new) / max(1, len(around)))
        # Random order among equals.
        order = np.lexsort([rng.random(len(members)), np.array(tried)])
        turns = [queues[i][k] for k in range(max(map(len, queues))) for i in order if k < len(queues[i])]
        return unique_rows(np.stack(turns))[:count] if turns else members[:0]


def neighbours(space: SearchSpace, row: NDArray[np.uint8]) -> Population:
    """Returns the distinct architectures (k, g) that differ from `row` (g,) in one active gene.

    Genes that wake up with it take their first choice.
    """
    changed = [
        np.where(np.arange(space.n_genes) == position, np.uint8(choice), row)
        for position in np.flatnonzero(space.active(row[None])[0])
        for choice in range(int(space.n_choices[position]))
        if choice != row[position]
    ]
    if not changed:
        return np.zeros((0, space.n_genes), dtype=np.uint8)
    rows = unique_rows(space.canonical(np.stack(changed)))
    return rows[not_in(rows, row[None])]
