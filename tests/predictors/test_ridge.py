"""Ridge: contract, closed forms of leave-one-out and posterior."""

from __future__ import annotations

import numpy as np
import pytest

from predictors.ridge import Ridge, precision_weights
from search_spaces.space import SearchSpace
from tests.contracts.predictor_contract import PredictorContract, example_space, example_values


class TestRidge(PredictorContract):
    def make(self, space: SearchSpace) -> Ridge:
        return Ridge(space)


class TestRidgeOnOrdinals(PredictorContract):
    tolerance = 0.4

    def make(self, space: SearchSpace) -> Ridge:
        return Ridge(space, blocks=("ordinal",))


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


def test_leave_one_out_errors_are_those_of_refitting(data) -> None:
    space, rows, values = data
    model = Ridge(space, alphas=(0.3,)).fit(rows, values)
    x = model.features.matrix(rows)
    s = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
    alpha = 0.3 * (s[s > 1e-9 * s.max()] ** 2).mean()
    for i in range(len(rows)):
        kept = np.arange(len(rows)) != i
        weights, intercept = direct(x[kept], values[kept], alpha)
        assert model.loo_[i] == pytest.approx(values[i] - x[i] @ weights - intercept, rel=1e-6)


def test_mean_and_deviation_are_the_posterior(data) -> None:
    space, rows, values = data
    model = Ridge(space, alphas=(0.3,)).fit(rows, values)
    x = model.features.matrix(rows)
    s = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
    alpha = 0.3 * (s[s > 1e-9 * s.max()] ** 2).mean()
    centred = x - x.mean(axis=0)
    inverse = np.linalg.inv(centred.T @ centred + alpha * np.eye(x.shape[1]))
    new = space.enumerate()[::17]
    z = model.features.matrix(new) - x.mean(axis=0)
    weights, intercept = direct(x, values, alpha)
    prediction = model.predict(new)
    np.testing.assert_allclose(prediction.mean, model.features.matrix(new) @ weights + intercept, rtol=1e-8)
    # Bishop 2006 eq. 3.59 with a free intercept; the noise level is the model's own.
    shape = 1 + 1 / len(rows) + np.einsum("ij,jk,ik->i", z, inverse, z)
    noise = prediction.std**2 / shape
    np.testing.assert_allclose(noise, noise[0], rtol=1e-8)


def test_alpha_is_the_best_of_the_given(data) -> None:
    space, rows, values = data
    chosen = Ridge(space, alphas=(1e-4, 0.1, 1e4)).fit(rows, values)
    scores = [np.sum(Ridge(space, alphas=(a,)).fit(rows, values).loo_ ** 2) for a in (1e-4, 0.1, 1e4)]
    assert chosen.alpha_ == (1e-4, 0.1, 1e4)[int(np.argmin(scores))]


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
    with pytest.raises(ValueError, match=r"feature blocks must be out of .*, but got \['one-hot'\]"):
        Ridge(example_space(), blocks=("one-hot",))
