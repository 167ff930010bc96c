"""The models that learn from features: each keeps the contract, on genes and on layer costs."""

from __future__ import annotations

import numpy as np
import pytest

from predictors.base import Predictor
from predictors.ensemble import DeepEnsemble
from predictors.gaussian_process import GaussianProcess
from predictors.model import calibrate, quantile
from predictors.non_negative import NonNegative, NonNegativeRegressor
from predictors.regression import HeldOut, Sample, cross_fit, fold_of
from predictors.ridge import Ridge, RidgeRegressor
from predictors.svr import SupportVectors
from predictors.trees import BoostedTrees
from search_spaces.space import SearchSpace
from tests.contracts.predictor_contract import PredictorContract, example_space, example_values


class TestNonNegative(PredictorContract):
    tolerance = 0.4

    def make(self, space: SearchSpace) -> Predictor:
        return NonNegative(space)


class TestGaussianProcess(PredictorContract):
    tolerance = 0.12

    def make(self, space: SearchSpace) -> Predictor:
        return GaussianProcess(space)


class TestLogGaussianProcess(PredictorContract):
    tolerance = 0.2

    def make(self, space: SearchSpace) -> Predictor:
        return GaussianProcess(space, sets=("genes",), target="log", smooth=False)


def test_log_target_needs_positive_values() -> None:
    space = example_space()
    with pytest.raises(ValueError, match="values must be positive for a log target, but row 1 is -1"):
        Ridge(space, target="log").fit(space.enumerate()[:3], np.array([1.0, -1.0, 2.0]))


def test_log_intervals_are_the_transform_of_even_ones() -> None:
    space = example_space()
    rows = space.enumerate()[::5]
    model = Ridge(space, target="log").fit(rows, np.exp(example_values(space, rows) / 10))
    low, high = model.interval(rows, 0.8)
    mean = model.predict(rows).mean
    np.testing.assert_allclose(np.sqrt(low * high), mean)
    assert (low > 0).all() and (low < high).all()


def test_non_negative_weights_have_one_sign_and_find_it() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, (60, 5))
    truth = np.array([2.0, 0.0, 1.0, 0.5, 3.0])
    for sign in (1.0, -1.0):
        y = 10 + sign * x @ truth + 0.01 * rng.normal(size=60)
        model = NonNegativeRegressor(alphas=(1e-6,)).fit(Sample.of(x, y))
        assert model.sign_ == sign
        np.testing.assert_allclose(model.arrays()["weights"], sign * truth, atol=0.02)
        mean, std = model.predict(x)
        np.testing.assert_allclose(mean, y, atol=0.05)
        assert 0.005 < std.mean() < 0.02


def test_fold_of_keeps_groups_together() -> None:
    group = np.repeat(np.arange(10), 3)
    fold = fold_of(group, 5)
    assert all(len(set(fold[group == g])) == 1 for g in range(10))
    assert np.bincount(fold).tolist() == [6] * 5


def test_cross_fit_of_one_architecture() -> None:
    sample = Sample.of(np.zeros((4, 1)), np.arange(4.0))
    same = Sample(sample.x, sample.y, (1,), sample.stds, sample.weight, np.zeros(4, dtype=np.intp))
    held = cross_fit(RidgeRegressor, same)
    np.testing.assert_allclose(held.mean, 1.5)


def test_calibration_by_hand() -> None:
    rng = np.random.default_rng(0)
    y = 3 * rng.normal(size=2000)
    factor, scores = calibrate(HeldOut(np.zeros(2000), np.ones(2000)), y)
    assert factor == pytest.approx(3.0, rel=0.05)  # 2,000 rows: 2 % deviation of a 90 % quantile
    assert (scores <= quantile(scores, 0.9)).mean() == pytest.approx(0.9, abs=0.001)
    assert quantile(np.sort(np.arange(1.0, 20.0)), 0.9) == 18.0  # the 18th of 19: ceil(20 * 0.9)
    assert quantile(np.ones(3), 0.9) == pytest.approx(2.92, abs=0.01)  # Student's t with two degrees of freedom
    with pytest.raises(ValueError, match="level must be between 0 and 1, but got 0"):
        quantile(scores, 0)


@pytest.mark.parametrize("make", [Ridge, NonNegative, GaussianProcess])
def test_intervals_cover(make) -> None:
    space = example_space()
    rng = np.random.default_rng(1)
    rows = rng.permutation(space.enumerate())
    values = example_values(space, rows) + 0.3 * rng.standard_t(4, size=len(rows))
    low, high = make(space).fit(rows[:100], values[:100]).interval(rows[100:])
    inside = ((low <= values[100:]) & (values[100:] <= high)).mean()
    assert 0.82 <= inside <= 0.98  # 100 scores: 3 % deviation of the coverage


class TestSupportVectors(PredictorContract):
    tolerance = 0.4

    def make(self, space: SearchSpace) -> Predictor:
        return SupportVectors(space)


class TestBoostedTrees(PredictorContract):
    tolerance = 0.5

    def make(self, space: SearchSpace) -> Predictor:
        return BoostedTrees(space, rounds=80)


class TestDeepEnsemble(PredictorContract):
    tolerance = 0.4
    unit_tolerance = 0.02

    def make(self, space: SearchSpace) -> Predictor:
        return DeepEnsemble(space, steps=80)


def test_arguments_are_checked() -> None:
    space = example_space()
    with pytest.raises(ValueError, match="epsilon must be at least 0, but got -1"):
        SupportVectors(space, epsilon=-1)
    with pytest.raises(ValueError, match="rounds must be at least 1 and k at least 2, but got 0"):
        BoostedTrees(space, rounds=0)
    with pytest.raises(ValueError, match="members must be at least 2, but got 1"):
        DeepEnsemble(space, members=1)
