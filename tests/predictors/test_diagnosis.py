"""Learning curves, residuals by stage and the noise of repeated labels."""

from __future__ import annotations

import numpy as np
import pytest

from predictors.diagnosis import label_noise, learning_curve, stage_residuals
from predictors.ridge import Ridge
from search_spaces.genes import Condition, Gene
from search_spaces.space import SearchSpace

SPACE = SearchSpace(
    [
        Gene("stage1.kernel", (3, 5, 7)),
        Gene("stage2.depth", (1, 2)),
        Gene("stage2.width", (8, 16), active_when=(Condition("stage2.depth", (2,)),)),
        Gene("act", ("relu", "swish")),
    ]
)


def test_a_curve_falls_and_tests_on_rows_it_was_not_fitted_on() -> None:
    genes = SearchSpace([Gene(f"g{i}", (0, 1, 2)) for i in range(12)])
    rng = np.random.default_rng(0)
    rows = genes.sample(160, rng)
    values = 10 + rows @ np.arange(1.0, 13.0)
    curve = learning_curve(lambda: Ridge(genes), rows, values)
    assert [p.rows for p in curve] == [10, 20, 50, 100]
    assert [p.tested for p in curve] == [150, 140, 110, 60]
    assert curve[-1].rmse < 0.2 * curve[0].rmse
    assert curve[-1].kendall is not None and curve[-1].kendall > 0.95


def test_repeats_stay_on_one_side_of_a_curve() -> None:
    rows = np.repeat(SPACE.enumerate(), 4, axis=0)
    seen: list[int] = []

    class Counting(Ridge):
        def fit(self, population, values, *, stds=None):  # type: ignore[no-untyped-def]
            seen.append(len(np.unique(population, axis=0)) * 4 - len(population))
            return super().fit(population, values, stds=stds)

    values = rows.sum(axis=1) + 1.0
    learning_curve(lambda: Counting(SPACE), rows, values, sizes=(10, 20))
    assert seen == [0, 0]


def test_no_curve_from_few_rows() -> None:
    rows = SPACE.enumerate()[:12]
    assert learning_curve(lambda: Ridge(SPACE), rows, np.arange(12.0)) == []


def test_a_stage_that_is_wrong_stands_out() -> None:
    rng = np.random.default_rng(1)
    rows = SPACE.sample(120, rng)
    values = np.full(120, 2.0)
    predicted = values + 0.02 * rng.standard_normal(120) + 0.2 * (rows[:, 0] == 2)
    found = {line.stage: line for line in stage_residuals(SPACE, rows, predicted, values)}
    assert list(found) == ["stage1", "stage2", "act"]
    worst = found["stage1"]
    assert (worst.gene, worst.value, worst.n) == ("stage1.kernel", 7, int((rows[:, 0] == 2).sum()))
    assert worst.mean == pytest.approx(0.1, abs=0.01)  # 0.2 of 2.0
    assert worst.z > 6 > abs(found["act"].z)


def test_only_rows_where_a_gene_is_active_count() -> None:
    rows = SPACE.enumerate()
    found = {line.stage: line for line in stage_residuals(SPACE, rows, 1.0 + rows[:, 2], np.ones(len(rows)))}
    assert (found["stage2"].gene, found["stage2"].n) != ("stage2.width", len(rows))


def test_noise_of_labels_is_that_of_one_label() -> None:
    rng = np.random.default_rng(2)
    rows = np.repeat(SPACE.enumerate(), 3, axis=0)  # 18 architectures, 36 degrees of freedom: std within 30 % (3 sigma)
    truth = 100 + 10 * rows.sum(axis=1)
    found = label_noise(rows, truth + 2.0 * rng.standard_normal(len(rows)))
    assert found is not None
    assert (found.architectures, found.labels) == (18, 54)
    assert found.std == pytest.approx(2.0, rel=0.3)
    assert found.mape == pytest.approx(100 * 2.0 * np.sqrt(2 / np.pi) / truth.mean(), rel=0.35)
    assert found.kendall is not None and 0.6 < found.kendall < 1


def test_noise_of_two_labels_in_closed_form() -> None:
    rows = np.array([[0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]], np.uint8)
    found = label_noise(rows, np.array([1.0, 3.0, 7.0]))
    assert found is not None
    assert found.std == pytest.approx(np.sqrt(2))
    assert found.mape == pytest.approx(100 * np.sqrt(2) * (1 + 1 / 3) / 2)
    assert found.kendall is None


def test_no_noise_without_repeats() -> None:
    assert label_noise(SPACE.enumerate(), np.arange(18.0)) is None
