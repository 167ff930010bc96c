"""Answers from one-hot columns are those from the features that the columns make, and there are none with costs."""

from __future__ import annotations

import numpy as np
import pytest

from predictors.features import Features
from predictors.gaussian_process import GPRegressor
from predictors.non_negative import NonNegativeRegressor
from predictors.on_basis import LinearAnswer, shortest
from predictors.regression import Regressor, Sample
from predictors.ridge import Ridge, RidgeRegressor
from tests.contracts.predictor_contract import example_space, example_values


@pytest.mark.parametrize(
    "regressor",
    [
        RidgeRegressor(),
        NonNegativeRegressor(),
        GPRegressor(),  # 45 rows: one process
        GPRegressor(few=100, draws=3),
        GPRegressor(smooth=False),
        GPRegressor(linear=False),
    ],
    ids=["ridge", "non-negative", "gp", "gp draws", "gp linear", "gp smooth"],
)
def test_of_one_hot_columns(regressor: Regressor) -> None:
    space = example_space()
    rows = np.random.default_rng(0).permutation(space.enumerate())[:200]
    features = Features(space, ("counts", "ordinal"))
    assert features.on_hot is not None
    x, hot = features.matrix(rows), features.hot(rows)
    np.testing.assert_allclose(hot @ features.on_hot, x, atol=1e-12)
    regressor.fit(Sample.of(x[:45], example_values(space, rows[:45]), widths=features.widths))
    quick = regressor.on_basis(features.on_hot)
    assert quick is not None
    for got, expected in zip(quick(hot), regressor.predict(x), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-8)


def test_products_of_genes_are_no_sums_of_columns() -> None:
    features = Features(example_space(), ("one_hot", "products"))
    assert features.on_hot is None
    rows = example_space().enumerate()
    model = Ridge(example_space(), features=features).fit(rows[:60], example_values(example_space(), rows[:60]))
    assert np.isfinite(model.predict(rows).std).all()


def test_a_long_root_is_shortened_and_a_short_one_left() -> None:
    rng = np.random.default_rng(0)
    root, shift = rng.normal(size=(3, 9)), rng.normal(size=9)
    answer = LinearAnswer.of(np.ones(3), 1.0, root, shift, floor=2.0, noise=0.5)
    assert answer.root.shape == (3, 4) and answer.shift.shape == (4,)
    x = rng.normal(size=(5, 3))
    mean, std = answer(x)
    np.testing.assert_allclose(mean, x.sum(axis=1) + 1)
    np.testing.assert_allclose(std**2, 0.5 * (2 + ((x @ root + shift) ** 2).sum(axis=1)))
    np.testing.assert_array_equal(shortest(root[:, :2]), root[:, :2])
