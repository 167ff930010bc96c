"""Auto: contract, stacking weights, honest held-out answers, what it chooses and when."""

from __future__ import annotations

import numpy as np
import pytest

from predictors.auto import CANDIDATES, Auto, Candidate, estimated_seconds
from predictors.base import Predictor, Sources
from predictors.files import Card, load, save
from predictors.ridge import Ridge
from predictors.stacking import nested_mean, stack_weights
from search_spaces.mobilenet import MobileNet, Stage
from search_spaces.space import SearchSpace
from search_spaces.supernet import Supernet
from tests.contracts.predictor_contract import PredictorContract, example_space, example_values

FAST = tuple(c for c in CANDIDATES if c.name in {"gp counts", "non-negative", "ridge"})


class TestAuto(PredictorContract):
    tolerance = 0.12

    def make(self, space: SearchSpace) -> Predictor:
        return Auto(space, candidates=FAST)


@pytest.fixture(scope="module")
def net() -> Supernet:
    return Supernet(
        MobileNet(input_shape=(3, 16, 16), n_classes=4, stages=[Stage((8, 16)), Stage((16, 24))]), meta=True
    )


def test_layer_costs_are_used_where_there_are_some(net, tmp_path) -> None:
    rng = np.random.default_rng(0)
    rows = net.space.sample(200, rng)
    costs = net.costs(rows)
    values = costs.macs / 1e5 + costs.activation_bytes / 1e5 + 1.0
    some = tuple(c for c in CANDIDATES if c.name in {"gp few costs", "non-negative costs", "ridge"})
    model = Auto(net.space, layers=net.layers, candidates=some).fit(rows[:40], values[:40])
    assert any("costs" in name for name in model.names_)
    prediction = model.predict(rows[40:])
    assert np.mean(np.abs(prediction.mean - values[40:]) / values[40:]) < 0.03
    save(model, tmp_path / "p", card=Card("latency_ms", "ms"))
    again = load(tmp_path / "p", sources=Sources(layers=net.layers)).predictor
    np.testing.assert_array_equal(again.predict(rows).mean, model.predict(rows).mean)
    np.testing.assert_array_equal(again.interval(rows)[0], model.interval(rows)[0])
    with pytest.raises(ValueError, match="must be given the layers of the space's networks"):
        load(tmp_path / "p")


def test_members_are_mixed_by_their_weights() -> None:
    space = example_space()
    rows = np.random.default_rng(0).permutation(space.enumerate())[:50]
    model = Auto(space, candidates=FAST).fit(rows, example_values(space, rows) + 0.1 * np.sin(np.arange(50)))
    assert model.weights_.sum() == pytest.approx(1.0) and (model.weights_ > 0).all()
    parts = np.stack([member.predict(rows).mean for member in model.members_])
    np.testing.assert_allclose(model.predict(rows).mean, model.weights_ @ parts)
    assert set(model.errors_) == {c.name for c in FAST}


def test_held_out_answers_are_as_good_as_new_ones() -> None:
    space = example_space()
    inner, outer, inside = [], [], []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        rows = rng.permutation(space.enumerate())
        values = example_values(space, rows) + 0.3 * rng.normal(size=len(rows))
        model = Auto(space, candidates=FAST).fit(rows[:120], values[:120])
        inner.append((model.held_out().mean - values[:120]) ** 2)
        outer.append((model.predict(rows[120:]).mean - values[120:]) ** 2)
        low, high = model.interval(rows[120:])
        inside.append((low <= values[120:]) & (values[120:] <= high))
    # 360 rows: 4 % deviation of an RMSE, 2 % of a coverage.
    assert np.sqrt(np.mean(inner)) == pytest.approx(np.sqrt(np.mean(outer)), rel=0.15)
    assert 0.84 <= np.mean(inside) <= 0.96


def test_which_candidates_are_tried() -> None:
    space = example_space()

    def names(n: int, positive: bool = True, **settings: object) -> list[str]:
        return [c.name for c in Auto(space, **settings).suitable(n, positive)]

    assert "trees" not in names(50) and "trees" in names(500)
    assert "non-negative" in names(50) and "non-negative" not in names(500)
    assert not any("log" in name for name in names(50, positive=False))
    assert not any("costs" in name for name in names(50))
    assert len(names(100, seconds=1e-9)) == 1  # the first suitable one always
    slow = [estimated_seconds(c, 1000, 45) for c in CANDIDATES]
    assert sum(slow) < 60 and sum(estimated_seconds(c, 100, 45) for c in CANDIDATES) < 8


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="seconds must be positive, but got 0"):
        Auto(example_space(), seconds=0)
    with pytest.raises(ValueError, match="candidates must hold a model that needs no layer costs"):
        Auto(example_space(), candidates=(Candidate("c", Ridge, ("costs",)),))


def test_stacking_prefers_the_better_and_mixes_the_independent() -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(5, 10, 300)
    group = np.arange(300)
    held = values + rng.normal(size=(3, 300)) * np.array([[0.1], [0.1], [3.0]])
    weights = stack_weights(held, values, group, relative=True)
    np.testing.assert_allclose(weights, [0.5, 0.5, 0.0], atol=0.12)  # two equal, independent ones and a bad one
    np.testing.assert_array_equal(stack_weights(held[:1], values, group, relative=False), [1.0])
    spoiled = held.copy()
    spoiled[0, :5] += 100.0  # outliers of a good model
    assert stack_weights(spoiled, values, group, relative=False)[0] < 0.4
    outer = nested_mean(held, values, group, relative=True)
    assert np.abs(outer - values).mean() < 1.1 * np.abs(weights @ held - values).mean()
    np.testing.assert_array_equal(
        nested_mean(held[:, :2], values[:2], np.zeros(2, dtype=np.intp), relative=True), held[:, :2].mean(axis=0)
    )


def test_perfect_models_do_not_divide_by_zero() -> None:
    values = np.arange(1.0, 9.0)
    weights = stack_weights(np.stack([values, values]), values, np.arange(8), relative=True)
    assert np.isfinite(weights).all() and weights.sum() == pytest.approx(1.0)
