"""Analytic: exact costs as a predictor."""

from __future__ import annotations

import numpy as np
import pytest

from predictors.analytic import Analytic
from predictors.base import Sources, State
from predictors.files import Card, load, save
from search_spaces.mlp import MLP
from search_spaces.supernet import Supernet
from tests.contracts.predictor_contract import example_space, example_values


def test_costs_of_a_supernet(tmp_path) -> None:
    net = Supernet(MLP(input_shape=(4,), n_classes=2, hidden=((2, 4), (3, 6))), meta=True)
    model = Analytic(net.space, costs=lambda p: net.costs(p).macs, chunk=3)
    rows = net.space.enumerate()
    prediction = model.predict(rows)
    np.testing.assert_array_equal(prediction.mean, net.costs(rows).macs)
    assert not prediction.std.any()
    save(model, tmp_path / "macs.predictor", card=Card("macs", "MACs"))
    loaded = load(tmp_path / "macs.predictor", sources=Sources(costs=lambda p: net.costs(p).macs)).predictor
    np.testing.assert_array_equal(loaded.predict(rows).mean, prediction.mean)


def test_fit_checks_and_learns_nothing() -> None:
    space = example_space()
    rows = space.enumerate()
    model = Analytic(space, costs=lambda p: example_values(space, p))
    assert model.fit(rows[:5], np.arange(5.0)) is model
    np.testing.assert_array_equal(model.predict(rows).mean, example_values(space, rows))
    with pytest.raises(ValueError, match="values must be finite"):
        model.fit(rows[:2], np.array([1.0, np.nan]))


def test_errors() -> None:
    space = example_space()
    with pytest.raises(ValueError, match="chunk must be at least 1, but got 0"):
        Analytic(space, costs=lambda p: np.zeros(len(p)), chunk=0)
    with pytest.raises(ValueError, match=r"costs must return shape \(5,\), but got \(1,\)"):
        Analytic(space, costs=lambda p: np.zeros(1)).predict(space.enumerate()[:5])
    with pytest.raises(ValueError, match="must be loaded with the cost function"):
        Analytic.from_state(space, State({}, {"chunk": 1}), sources=Sources())
