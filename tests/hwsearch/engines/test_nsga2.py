from __future__ import annotations

import numpy as np
import pytest

from hwsearch import pareto
from hwsearch.engines.nsga2 import NSGA2
from hwsearch.engines.random_search import RandomSearch
from hwsearch.engines.selection import survivors
from hwsearch.results import History
from search_spaces.populations import not_in
from search_spaces.space import SearchSpace
from tests.contracts.engine_contract import EngineContract, finished, large_space, toy_losses


class TestNSGA2(EngineContract):
    def make(self, space: SearchSpace, *, n_objectives: int = 2, seed: int = 0) -> NSGA2:
        return NSGA2(space, n_objectives=n_objectives, seed=seed)


def test_parents_keep_limits_when_any_does() -> None:
    """Children of one feasible parent alone differ from it in few genes; infeasible rows are no parents."""
    space = large_space()
    rows = space.sample(200, np.random.default_rng(0))
    excess = np.ones((200, 1))
    excess[:25] = 0.0
    done = History.of(rows, toy_losses(space, rows, 2), excess)
    parents, _ = survivors(done.losses, done.violations, 20)
    assert (parents < 25).all()


def test_better_than_random() -> None:
    """Dominated volume after 150 trials on a smooth problem, sum over 5 seeds; random is far below."""
    space = large_space()
    reference = toy_losses(space, space.sample(2000, np.random.default_rng(9)), 2).max(axis=0)

    def volume(engine: NSGA2 | RandomSearch) -> float:
        history = History.empty(space.n_genes, 2)
        while len(history) < 150:
            rows = engine.propose(history, 5)
            history = finished(space, np.concatenate([history.genotypes, rows]))
        return pareto.hypervolume(history.losses, reference)

    ours = [volume(NSGA2(space, n_objectives=2, seed=s)) for s in range(5)]
    baseline = [volume(RandomSearch(space, n_objectives=2, seed=s)) for s in range(5)]
    assert min(ours) > max(baseline)


def test_starts_with_random_rows() -> None:
    space = large_space()
    history = History.empty(space.n_genes, 2)
    engine = NSGA2(space, n_objectives=2, population=10, seed=3, extremes=False)
    first = engine.propose(history, 10)
    assert (first == RandomSearch(space, n_objectives=2, seed=3).propose(history, 10)).all()
    assert not_in(engine.propose(finished(space, first), 10), first).all()


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("population", 1, "engine.population must be at least 2, but got 1"),
        ("crossover", 1.5, r"engine.crossover must be in \[0, 1\], but got 1.5"),
        ("mutation", -0.1, r"engine.mutation must be in \[0, 1\], but got -0.1"),
    ],
)
def test_settings(setting: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NSGA2(large_space(), n_objectives=2, **{setting: value})  # type: ignore[arg-type]


class TestNSGA2WithRandomStart(EngineContract):
    def make(self, space: SearchSpace, *, n_objectives: int = 2, seed: int = 0) -> NSGA2:
        return NSGA2(space, n_objectives=n_objectives, seed=seed, extremes=False)


def test_extremes_come_first_and_once() -> None:
    space = large_space()
    ends = np.stack([space.row(space.smallest()), space.row(space.largest())])
    engine = NSGA2(space, n_objectives=2)
    history = History.empty(space.n_genes, 2)
    assert (engine.propose(history, 5)[:2] == ends).all()
    assert (engine.propose(history, 1) == ends[:1]).all()
    after = finished(space, ends[:1])
    assert (engine.propose(after, 1) == ends[1:]).all()
    assert not_in(engine.propose(finished(space, ends), 20), ends).all()
