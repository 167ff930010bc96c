"""Ridge: contract, closed forms of leave-one-out and posterior."""

from __future__ import annotations

import numpy as np
import pytest

from predictors.regression import Sample, precision_weights
from predictors.ridge import Ridge, RidgeRegressor
from search_spaces.space import SearchSpace
from tests.contracts.predictor_contract import PredictorContract, example_space, example_values


class TestRidge(PredictorContract):
    def make(self, space: SearchSpace) -> Ridge:
        return Ridge(space)


class TestRidgeOnOrdinals(PredictorContract):
    tolerance = 0.4

    def make(self, space: SearchSpace) -> Ridge:
        return Ridge(space, sets=("ordinal",))


@pytest.fixture(scope="module")
def data() -> tuple[SearchSpace, np.ndarray, np.ndarray]:
    space = example_space()
    rng = np.random.default_rng(3)
    rows = rng.permutation(space.enumerate())[:30]
    return space, rows, example_values(space, rows) + 0.1 * rng.normal(size=30)


def direct(x: np.ndarray, y: np.ndarray, alpha: float) -> tuple[np.ndarray, float]:
    mean = x.mean(axis=0)
    centred = x - mean
    weights = np.linalg.solve(centred.T @ centred + alpha * np.eye(x.shape[1]), centred.T @ (y - y.mean()))
    return weights, float(y.mean() - mean @ weights)


def strength(x: np.ndarray) -> float:
    s = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
    return 0.3 * (s[s > 1e-9 * s.max()] ** 2).mean()


@pytest.fixture(scope="module")
def matrix(data) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    space, rows, values = data
    features = Ridge(space).features
    return features.matrix(rows), values, features.matrix(space.enumerate()[::17])


def test_leave_one_out_answers_are_those_of_refitting(matrix) -> None:
    x, y, _ = matrix
    held = RidgeRegressor(alphas=(0.3,)).fit(Sample.of(x, y)).held_out()
    for i in range(len(y)):
        kept = np.arange(len(y)) != i
        weights, intercept = direct(x[kept], y[kept], strength(x))
        assert held.mean[i] == pytest.approx(x[i] @ weights + intercept, rel=1e-6)


def test_mean_and_deviation_are_the_posterior(matrix) -> None:
    x, y, new = matrix
    model = RidgeRegressor(alphas=(0.3,)).fit(Sample.of(x, y))
    inverse = np.linalg.inv((x - x.mean(0)).T @ (x - x.mean(0)) + strength(x) * np.eye(x.shape[1]))
    z = new - x.mean(axis=0)
    weights, intercept = direct(x, y, strength(x))
    mean, std = model.predict(new)
    np.testing.assert_allclose(mean, new @ weights + intercept, rtol=1e-8)
    # Bishop 2006 eq. 3.59 with a free intercept; the noise level is the model's own.
    noise = std**2 / (1 + 1 / len(y) + np.einsum("ij,jk,ik->i", z, inverse, z))
    np.testing.assert_allclose(noise, noise[0], rtol=1e-8)
    held = model.held_out()
    assert np.mean(((y - held.mean) / held.std) ** 2) == pytest.approx(1.0)


def test_alpha_is_the_best_of_the_given(matrix) -> None:
    x, y, _ = matrix
    alphas = (1e-4, 0.1, 1e4)
    chosen = RidgeRegressor(alphas=alphas).fit(Sample.of(x, y))
    scores = [((RidgeRegressor(alphas=(a,)).fit(Sample.of(x, y)).held_out().mean - y) ** 2).sum() for a in alphas]
    assert chosen.alpha_ == alphas[int(np.argmin(scores))]


def test_repeats_tell_the_noise() -> None:
    space = example_space()
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.permutation(space.enumerate())[:100], 3, axis=0)
    values = example_values(space, rows) + 0.5 * rng.normal(size=len(rows))
    std = Ridge(space).fit(rows, values).predict(rows).std
    assert std.mean() == pytest.approx(0.5, rel=0.15)  # 300 rows: 4 % deviation of a variance estimate


def test_precise_labels_count_more() -> None:
    space = example_space()
    rng = np.random.default_rng(1)
    rows = rng.permutation(space.enumerate())[:120]
    truth = example_values(space, rows)
    stds = np.where(np.arange(120) < 60, 0.05, 2.0)
    values = truth + stds * rng.normal(size=120)
    test = space.enumerate()
    errors = [
        np.abs(Ridge(space).fit(rows, values, stds=s).predict(test).mean - example_values(space, test)).mean()
        for s in (stds, None)
    ]
    assert errors[0] < 0.5 * errors[1]


def test_weights_of_unknown_errors_are_even() -> None:
    values = np.arange(4.0)
    np.testing.assert_array_equal(precision_weights(np.full(4, np.nan), values), np.ones(4))
    weights = precision_weights(np.array([0.1, 0.1, np.nan, 0.3]), values)
    assert weights[0] == weights[1] == weights[2] > weights[3] > 0
    assert weights.mean() == pytest.approx(1.0)


def test_alphas_are_checked() -> None:
    with pytest.raises(ValueError, match=r"alphas must be positive, but got \[0.0\]"):
        Ridge(example_space(), alphas=(0.0,))
    with pytest.raises(ValueError, match="target must be 'raw', 'log' or 'rank', but got 'sqrt'"):
        Ridge(example_space(), target="sqrt")
