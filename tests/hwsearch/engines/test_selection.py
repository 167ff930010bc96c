from __future__ import annotations

import numpy as np

from hwsearch.engines.selection import survivors, tournament


def test_survivors_by_rank_then_crowding() -> None:
    # Front: 0, 1, 2, 3 (2 is the most crowded of the inner ones); 4 is dominated; 5 passes a limit.
    losses = np.array([[0.0, 10.0], [4.0, 5.0], [4.5, 4.5], [10.0, 0.0], [11.0, 11.0], [-5.0, -5.0]])
    violations = np.array([[0.0], [0.0], [0.0], [0.0], [0.0], [1.0]])
    rows, order = survivors(losses, violations, 6)
    assert set(rows[:2]) == {0, 3}
    assert list(rows[2:]) == [1, 2, 4, 5] or list(rows[2:]) == [2, 1, 4, 5]
    assert order[0] == order[1] == 0
    assert list(order[2:]) == [1, 2, 3, 4] or list(order[2:]) == [1, 1, 2, 3]
    assert len(survivors(losses, violations, 3)[0]) == 3


def test_tournament_prefers_lower_places() -> None:
    winners = tournament(np.array([3, 0, 1]), 3000, np.random.default_rng(0))
    counts = np.bincount(winners, minlength=3)
    # Chances 1/9, 5/9, 3/9; sd at most 28.
    assert abs(counts[0] - 333) < 140
    assert abs(counts[1] - 1667) < 140
