"""Validation: every number of the report by hand, folds, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from predictors.base import Prediction
from predictors.ridge import Ridge
from predictors.validation import Report, cross_predict, cross_validate, folds, report
from tests.contracts.predictor_contract import example_space, example_values


def test_numbers_by_hand() -> None:
    values = np.array([10.0, 20.0, 40.0])
    prediction = Prediction(np.array([10.4, 18.2, 44.0]), np.array([1.0, 1.0, 3.0]))
    out = report(prediction, values, unit="ms")
    assert out.mape == pytest.approx((4 + 9 + 10) / 3)
    assert out.rmse == pytest.approx(np.sqrt((0.16 + 3.24 + 16) / 3))
    assert (out.within_5, out.within_10) == (pytest.approx(1 / 3), pytest.approx(1.0))
    assert out.kendall == out.spearman == pytest.approx(1.0)
    assert out.coverage == pytest.approx(2 / 3)  # 90 %: 1.645 deviations; the second is 1.8 away
    assert out.regret == {1: 0.0}
    assert out.n == 3


def test_regret_in_both_directions() -> None:
    values = np.array([5.0, 1.0, 2.0, 3.0, 4.0, 9.0])
    mean = np.array([0.0, 2.0, 1.0, 3.0, 4.0, 5.0])
    assert report(Prediction(mean, np.zeros(6)), values).regret == {1: 4.0, 5: 0.0}
    assert report(Prediction(-mean, np.zeros(6)), values, minimize=False).regret == {1: 4.0, 5: 4.0}


def test_what_cannot_be_said_is_none() -> None:
    out = report(Prediction(np.ones(3), np.zeros(3)), np.array([0.0, 1.0, 2.0]))
    assert (out.mape, out.within_5, out.kendall, out.spearman, out.coverage, out.rmse_noise) == (None,) * 6
    assert "-" in out.text()


def test_json_round_trip_and_text() -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(1, 2, 50)
    out = report(Prediction(values + 0.1, np.full(50, 0.1)), values, unit="ms", stds=np.full(50, 0.05))
    assert Report.from_dict(json.loads(json.dumps(out.to_dict()))) == out
    text = out.text()
    for part in (
        "MAPE",
        "RMSE            0.1 ms (noise of the values 0.05 ms)",
        "Kendall tau     1.000",
        "of 10",
        "90%",
    ):
        assert part in text


def test_folds_are_even_disjoint_and_fixed() -> None:
    fold = folds(23, 5, seed=1)
    counts = np.bincount(fold)
    assert counts.sum() == 23 and counts.max() - counts.min() == 1
    np.testing.assert_array_equal(fold, folds(23, 5, seed=1))
    assert (fold != folds(23, 5, seed=2)).any()
    with pytest.raises(ValueError, match="number of folds must be between 2 and the 3 rows, but got 4"):
        folds(3, 4)


def test_cross_prediction_never_sees_the_row_or_its_repeats() -> None:
    space = example_space()
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.permutation(space.enumerate())[:12], 2, axis=0)
    seen: list[set[bytes]] = []

    class Spy(Ridge):
        def fit(self, population, values, *, stds=None):
            self.known = {row.tobytes() for row in population}
            return super().fit(population, values, stds=stds)

        def predict(self, population):
            seen.append(self.known & {row.tobytes() for row in population})
            return super().predict(population)

    cross_predict(lambda: Spy(space), rows, example_values(space, rows) + rng.normal(size=24))
    assert len(seen) == 5 and not any(seen)


def test_cross_validation_is_near_the_truth() -> None:
    space = example_space()
    rng = np.random.default_rng(0)
    rows = rng.permutation(space.enumerate())
    values = example_values(space, rows) + 0.1 * rng.normal(size=len(rows))
    inner = cross_validate(lambda: Ridge(space), rows[:150], values[:150], unit="ms")
    outer = report(Ridge(space).fit(rows[:150], values[:150]).predict(rows[150:]), values[150:], unit="ms")
    assert inner.rmse == pytest.approx(outer.rmse, rel=0.25)  # 150 rows: 6 % deviation of an RMSE
    assert 0.8 <= inner.coverage <= 1.0


def test_refusals() -> None:
    some = Prediction(np.ones(2), np.ones(2))
    with pytest.raises(ValueError, match=r"must have one shape \(n,\), but got \(2,\) and \(3,\)"):
        report(some, np.ones(3))
    with pytest.raises(ValueError, match="must be finite"):
        report(some, np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match="level must be between 0 and 1, but got 1"):
        report(some, np.ones(2), level=1)
    with pytest.raises(ValueError, match="at least one held-out row"):
        report(Prediction(np.ones(0), np.ones(0)), np.ones(0))
    space = example_space()
    rows = np.repeat(space.enumerate()[:3], 3, axis=0)
    with pytest.raises(ValueError, match="at least 4 distinct rows, but got 3"):
        cross_validate(lambda: Ridge(space), rows, np.arange(9.0))
