"""Rank targets: by hand, there and back, what they are good for, and the contract."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau, norm

from predictors.auto import Auto, with_target
from predictors.base import Predictor
from predictors.normal_scores import NormalScores
from predictors.ridge import Ridge
from search_spaces.space import SearchSpace
from tests.contracts.predictor_contract import PredictorContract, example_space, example_values


class TestRank(PredictorContract):
    def make(self, space: SearchSpace) -> Predictor:
        return Ridge(space, target="rank")


def test_by_hand() -> None:
    scores = NormalScores.of(np.array([10.0, 30.0, 20.0, 20.0]))
    assert scores.values.tolist() == [10, 20, 30]
    np.testing.assert_allclose(scores.scores, norm.ppf((np.array([1, 2.5, 4]) - 0.375) / 4.25))
    slope = 20 / (2 * scores.scores[2])  # the scores are symmetric
    mean, std = scores.back_with_std(np.array([0.0, 2.0]), np.array([0.1, 0.5]))
    np.testing.assert_allclose(mean, [20.0, 30 + slope * (2.0 - scores.scores[2])])
    np.testing.assert_allclose(std, slope * np.array([0.1, 0.5]))


def test_there_and_back_and_rising() -> None:
    labels = np.random.default_rng(0).lognormal(sigma=2.0, size=50)
    scores = NormalScores.of(labels)
    np.testing.assert_allclose(scores.back(scores.forward(labels)), labels)
    assert (np.diff(scores.back(np.linspace(-6, 6, 500))) > 0).all()


def test_nets_that_did_not_train_spoil_no_order() -> None:
    """Some accuracies collapse to that of guessing: as values they rule the fit, as ranks each is one row."""
    space = example_space()
    taus = {"raw": [], "rank": []}
    for seed in range(5):
        rng = np.random.default_rng(seed)
        rows = rng.permutation(space.enumerate())
        accuracy = 70 + 0.5 * example_values(space, rows)
        labels = np.where(rng.random(80) < 0.1, 10.0, accuracy[:80])
        for target in taus:
            model = Ridge(space, target=target).fit(rows[:80], labels)
            taus[target].append(kendalltau(model.predict(rows[80:]).mean, accuracy[80:]).statistic)
    assert np.mean(taus["rank"]) > np.mean(taus["raw"]) + 0.1


def test_intervals_are_of_the_values() -> None:
    space, rng = example_space(), np.random.default_rng(0)
    rows = rng.permutation(space.enumerate())
    values = np.exp(example_values(space, rows) / 4) * np.exp(0.1 * rng.normal(size=len(rows)))
    model = Ridge(space, target="rank").fit(rows[:150], values[:150])
    low, high = model.interval(rows[150:])
    assert 0.82 <= np.mean((low <= values[150:]) & (values[150:] <= high)) <= 0.97


def test_candidates_of_auto() -> None:
    for target in ("log", "rank"):
        candidates = with_target(target)
        assert {c.target for c in candidates} == {target}
        parts = [(c.model, c.sets, c.options) for c in candidates]
        assert len(parts) == len(set(parts)) >= 8
    space = example_space()
    rows = np.random.default_rng(0).permutation(space.enumerate())[:60]
    few = tuple(c for c in with_target("rank") if c.name in {"gp counts", "ridge"})
    values = example_values(space, rows)
    model = Auto(space, candidates=few).fit(rows[:40], values[:40])
    assert kendalltau(model.predict(rows[40:]).mean, values[40:]).statistic > 0.8
    assert model.held_out().mean == pytest.approx(values[:40], rel=0.2)
