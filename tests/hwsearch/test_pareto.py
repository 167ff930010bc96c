from __future__ import annotations

import numpy as np

from hwsearch import pareto


def test_front_of_known_points() -> None:
    losses = np.array([[1.0, 3.0], [3.0, 1.0], [2.0, 2.0], [3.0, 3.0], [2.0, 2.0], [np.nan, 0.0]])
    assert list(pareto.front(losses)) == [True, True, True, False, True, False]
    assert list(pareto.front(losses[:, :1])) == [True, False, False, False, False, False]
    assert len(pareto.front(np.zeros((0, 2)))) == 0


def test_intervals_that_overlap_everywhere() -> None:
    losses = np.array([[1.0, 1.0], [1.5, 1.0], [1.5, 2.0], [np.nan, 1.0]])
    half = np.array([[0.3, 0.0], [0.2, 0.0], [0.2, 1.0], [9.0, 9.0]])
    assert pareto.overlapping(losses, half).tolist() == [
        [True, True, True, False],
        [True, True, True, False],
        [True, True, True, False],
        [False, False, False, False],
    ]
    assert not pareto.overlapping(losses[:2], 0.9 * half[:2])[0, 1]
    assert pareto.overlapping(losses[:0], half[:0]).shape == (0, 0)


def test_ranks_peel_fronts() -> None:
    losses = np.array([[1.0, 1.0], [2.0, 2.0], [0.0, 3.0], [3.0, 3.0]])
    assert list(pareto.ranks(losses)) == [0, 1, 0, 2]
    assert list(pareto.ranks(losses[:, :1])) == [1, 2, 0, 3]


def test_crowding_closed_form() -> None:
    losses = np.array([[0.0, 4.0], [1.0, 2.0], [4.0, 0.0]])
    assert list(pareto.crowding(losses)) == [np.inf, 2.0, np.inf]
    assert list(pareto.crowding(np.ones((3, 2)))[1:2]) == [0.0]
    assert len(pareto.crowding(np.zeros((0, 2)))) == 0


def test_hypervolume_closed_form() -> None:
    losses = np.array([[1.0, 3.0], [3.0, 1.0], [9.0, 0.0], [np.nan, 0.0]])
    assert pareto.hypervolume(losses, np.array([4.0, 4.0])) == 5.0
    assert pareto.hypervolume(losses[:, :1], np.array([4.0])) == 3.0
    assert pareto.hypervolume(losses, np.zeros(2)) == 0.0


def test_total_violation_is_free_of_units() -> None:
    violations = np.array([[0.0, -2.0], [10.0, 0.0], [0.0, 1e6], [5.0, 5e5], [np.nan, 0.0]])
    assert list(pareto.total_violation(violations)) == [0.0, 1.0, 1.0, 1.0, np.inf]
    assert list(pareto.total_violation(np.zeros((2, 0)))) == [0.0, 0.0]


def test_constrained_ranks_put_limits_first() -> None:
    losses = np.array([[1.0, 1.0], [2.0, 2.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    violations = np.array([[0.0], [-1.0], [2.0], [1.0], [np.nan]])
    assert list(pareto.constrained_ranks(losses, violations)) == [0, 1, 3, 2, 4]
    assert list(pareto.constrained_ranks(losses[2:], violations[2:])) == [1, 0, 2]
