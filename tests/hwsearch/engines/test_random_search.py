from __future__ import annotations

import numpy as np

from hwsearch.engines.random_search import RandomSearch
from hwsearch.results import History
from search_spaces.space import SearchSpace
from tests.contracts.engine_contract import EngineContract, small_space


class TestRandomSearch(EngineContract):
    def make(self, space: SearchSpace, *, n_objectives: int = 2, seed: int = 0) -> RandomSearch:
        return RandomSearch(space, n_objectives=n_objectives, seed=seed)


def test_uniform_over_what_is_left() -> None:
    """3,000 draws over 30 of 60 rows: 100 expected each, sd 10; bounds at 5 sd."""
    space = small_space()
    rows = space.enumerate()
    history = History.of(rows[::2], np.zeros((len(rows[::2]), 2)))
    counts: dict[bytes, int] = {}
    n_left = len(rows) - len(history)
    for seed in range(100 * n_left):
        row = RandomSearch(space, n_objectives=2, seed=seed).propose(history, 1)[0]
        counts[row.tobytes()] = counts.get(row.tobytes(), 0) + 1
    assert set(counts) == {r.tobytes() for r in rows[1::2]}
    assert all(50 < c < 150 for c in counts.values())
