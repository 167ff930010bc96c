"""Active choice: by hand, against the determinant, spread at first, never what is measured, and better than chance."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from predictors.active import choose_next, greedy
from predictors.features import Features
from search_spaces.genes import Gene
from search_spaces.space import SearchSpace
from tests.contracts.predictor_contract import example_space


def test_greedy_by_hand() -> None:
    z = np.array([[3.0, 0.0], [2.9, 0.0], [0.0, 1.0], [0.0, 0.5]])
    none = np.zeros((0, 2))
    # The second of a pair tells little once the first is known; what is known already is not asked again.
    assert greedy(z, 2, known=none, noise=1.0).tolist() == [0, 2]
    assert greedy(z, 1, known=np.array([[3.0, 0.0]] * 4), noise=1.0).tolist() == [2]
    assert sorted(greedy(z, 4, known=none, noise=1.0).tolist()) == [0, 1, 2, 3]


def test_greedy_determinant_is_near_the_best() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(9, 3))

    def gain(chosen: list[int]) -> float:
        return float(np.linalg.slogdet(np.eye(3) + z[chosen].T @ z[chosen])[1])

    chosen = greedy(z, 4, known=np.zeros((0, 3)), noise=1.0).tolist()
    best = max(gain(list(c)) for c in combinations(range(9), 4))
    assert gain(chosen) >= (1 - 1 / np.e) * best  # Nemhauser et al. 1978: the bound of greedy submodular maximisation


def test_nothing_measured_is_chosen_and_no_row_twice() -> None:
    space = example_space()
    rng = np.random.default_rng(0)
    measured = space.sample(20, rng)
    features = Features(space, ("one_hot",))
    chosen = choose_next(space, measured, 15, embed=features.matrix, rng=rng)
    seen = {tuple(row) for row in measured.tolist()}
    assert len({tuple(row) for row in chosen.tolist()}) == 15
    assert not seen & {tuple(row) for row in chosen.tolist()}
    np.testing.assert_array_equal(chosen, space.canonical(chosen))


def test_the_choice_says_more_than_chance() -> None:
    space = example_space()
    features = Features(space, ("one_hot",))
    everything = features.matrix(space.enumerate())
    everything = everything - everything.mean(axis=0)

    def left(rows: np.ndarray) -> float:
        """Mean posterior variance over the space of a linear model with unit prior and noise."""
        z = 4 * (features.matrix(rows) - features.matrix(space.enumerate()).mean(axis=0))
        cov = np.linalg.inv(np.eye(z.shape[1]) + z.T @ z)
        return float(np.einsum("ij,jk,ik->", everything, cov, everything) / len(everything))

    chosen = choose_next(space, space.enumerate()[:0], 8, embed=features.matrix, rng=np.random.default_rng(0))
    chance = [left(space.sample(8, np.random.default_rng(seed))) for seed in range(20)]
    assert left(chosen) < min(chance)


def test_small_spaces_run_out() -> None:
    space = SearchSpace([Gene("a", (1, 2)), Gene("b", (1, 2))])
    embed = Features(space, ("one_hot",)).matrix
    rng = np.random.default_rng(0)
    assert len(choose_next(space, space.enumerate()[:1], 9, embed=embed, rng=rng)) == 3
    assert len(choose_next(space, space.enumerate(), 1, embed=embed, rng=rng)) == 0
    pool = space.enumerate()[2:]
    assert {tuple(r) for r in choose_next(space, pool[:0], 9, embed=embed, rng=rng, pool=pool).tolist()} == {
        tuple(r) for r in pool.tolist()
    }
    with pytest.raises(ValueError, match="count must be at least 1, but got 0"):
        choose_next(space, pool, 0, embed=embed, rng=rng)


def test_the_last_ones_are_all_taken() -> None:
    space = SearchSpace([Gene("a", (1, 2, 3)), Gene("b", (1, 2))])
    rows = space.enumerate()
    rng = np.random.default_rng(0)
    found = choose_next(space, rows[:5], 4, embed=lambda r: r.astype(float), rng=rng, pool=rows)
    np.testing.assert_array_equal(found, rows[5:])
