"""Simulated searches, the synthetic task, and how engines are compared."""

from __future__ import annotations

import numpy as np
import pytest

from hwsearch import pareto
from hwsearch.engines.base import SearchEngine
from hwsearch.engines.random_search import RandomSearch
from hwsearch.results import History, State
from hwsearch.tasks.compare import Curve, rank_test, summary
from hwsearch.tasks.searches import Conditions, searches
from hwsearch.tasks.simulate import simulate
from hwsearch.tasks.synthetic import synthetic_task
from hwsearch.tasks.task import Task, searched_front
from search_spaces.populations import unique_rows
from search_spaces.space import Population


def random_engine(task: Task, seed: int) -> SearchEngine:
    return RandomSearch(task.space, n_objectives=2, seed=seed)


class Watched(RandomSearch):
    """Notes what it was told."""

    def propose(self, history: History, count: int) -> Population:
        self.calls = [*getattr(self, "calls", []), (history, count)]
        return super().propose(history, count)


def test_the_synthetic_front_is_the_front() -> None:
    """One stage of 819 architectures, enumerated; two stages, against a long evolution."""
    task = synthetic_task(n_stages=1)
    rows = task.space.enumerate()
    losses = task.losses(rows)
    assert len(rows) == 9 + 81 + 729
    assert (np.unique(losses[pareto.front(losses)], axis=0) == np.unique(task.front, axis=0)).all()
    two = synthetic_task(n_stages=2, seed=3)
    found = searched_front(two.space, two.losses, n_candidates=20_000)
    assert two.shares(found, "worst")[-1] == pytest.approx(1.0, abs=2e-3)
    assert two.shares(two.front, "front")[-1] == pytest.approx(1.0)


def test_batches() -> None:
    task = synthetic_task(n_stages=1)
    engine = Watched(task.space, n_objectives=2)
    found = simulate(task, engine, trials=10, batch=4)
    assert [count for _, count in engine.calls] == [4, 4, 2]
    assert len(unique_rows(found.population)) == 10
    assert (found.losses == task.losses(found.population)).all()
    assert (found.labels == found.losses).all()


def test_evaluations_in_flight() -> None:
    """Four run at all times; the engine sees three running when it is asked for one."""
    task = synthetic_task(n_stages=1)
    engine = Watched(task.space, n_objectives=2)
    found = simulate(task, engine, trials=10, in_flight=4)
    assert [count for _, count in engine.calls] == [4] + [1] * 9
    history = engine.calls[-1][0]
    assert (history.state == State.RUNNING).sum() == 3
    assert np.isnan(history.losses[history.state == State.RUNNING]).all()
    assert (found.population == history.genotypes[:10]).all()


def test_label_noise() -> None:
    """600 labels: the deviation of their noise is 2 within four standard errors (0.06 each)."""
    task = synthetic_task(n_stages=1)
    engine = Watched(task.space, n_objectives=2)
    found = simulate(task, engine, trials=600, batch=300, noise=np.array([2.0, 0.0]))
    assert (found.labels - found.losses)[:, 0].std() == pytest.approx(2.0, abs=0.24)
    assert (found.labels[:, 1] == found.losses[:, 1]).all()
    stds = engine.calls[-1][0].stds
    assert (stds[:, 0] == 2.0).all()
    assert np.isnan(stds[:, 1]).all()


def test_a_small_space_ends_the_search() -> None:
    task = synthetic_task(n_stages=1)
    assert len(simulate(task, random_engine(task, 0), trials=2000, batch=400).population) == 819
    assert len(simulate(task, random_engine(task, 0), trials=2000, in_flight=300).population) == 819


def test_processes_change_nothing() -> None:
    task = synthetic_task(n_stages=1)
    seen: list[int] = []
    one = searches(task, random_engine, [3, 4], Conditions(20, 5), observe=seen.append)
    two = searches(task, random_engine, [3, 4], Conditions(20, 5), processes=2, observe=seen.append)
    assert seen == [1, 2, 1, 2]
    for a, b in zip(one, two, strict=True):
        assert (a.population == b.population).all()


def test_curves() -> None:
    a = Curve.of([np.array([0.5, 0.9, 1.0]), np.array([0.9, 0.9]), np.array([0.1, 0.2, 0.3])], [1.0, 2.0, 3.0])
    assert a.shares.tolist() == [[0.5, 0.9, 1.0], [0.9, 0.9, 0.9], [0.1, 0.2, 0.3]]
    assert a.evaluations(0.9).tolist() == [2.0, 1.0, np.inf]
    assert a.at(2).tolist() == [0.9, 0.9, 0.2]
    assert a.at(100).tolist() == [1.0, 0.9, 0.3]
    assert a.band()[1].tolist() == [0.5, 0.9, 0.9]


def test_rank_test_and_summary() -> None:
    """Eight searches of 1 ... 8 evaluations against eight of 11 ... 18: p = 2 / C(16, 8) exactly."""
    early = Curve.of([np.r_[np.zeros(i), np.ones(30 - i)] for i in range(8)], [1.0] * 8)
    late = Curve.of([np.r_[np.zeros(i + 10), np.ones(20 - i)] for i in range(8)], [2.0] * 8)
    assert rank_test(early, late, 0.9) == pytest.approx(2 / 12_870, rel=1e-6)
    assert rank_test(early, early, 0.9) == pytest.approx(1.0)
    rows = summary({"early": early, "late": late}, levels=[0.9], checkpoints=[5, 30])
    assert rows[0] == {
        "engine": "early",
        "n_to_90%": 4.5,
        "reached_90%": 1.0,
        "share_at_5": 1.0,
        "share_at_30": 1.0,
        "engine_seconds": 1.0,
        "p_value": 1.0,
    }
    assert rows[1]["p_value"] == pytest.approx(2 / 12_870, rel=1e-6)
    never = Curve.of([np.zeros(30)] * 10, [1.0] * 10)
    assert summary({"never": never}, levels=[0.9], checkpoints=[])[0]["n_to_90%"] == np.inf
