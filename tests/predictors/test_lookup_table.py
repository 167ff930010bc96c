"""Look-up table: the contract, exact at measured shapes, interpolation, calibration, what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from predictors.base import Predictor, Sources
from predictors.files import Card, load, save
from predictors.lookup_table import LookupTable, OperatorTime
from search_spaces.genes import Gene
from search_spaces.layers import LayerSpec
from search_spaces.space import Population, SearchSpace
from tests.contracts.predictor_contract import PredictorContract, example_space


def example_layers(population: Population) -> list[LayerSpec]:
    """Two stages of convolutions like the contract's space."""
    columns, out = example_space().columns(population), []
    for s in (1, 2):
        width = columns[f"stage{s}.width"].astype(np.int64)
        for b in (1, 2):
            kernel = columns[f"stage{s}.block{b}.kernel"].astype(np.int64)
            there = columns[f"stage{s}.depth"] >= b
            out.append(LayerSpec(f"s{s}b{b}", "conv", f"stage{s}", width, width, kernel, 1, 64, 64, active=there))
    return out


def table() -> list[OperatorTime]:
    """The operators of the contract's values, measured alone: each 20 % slower than in a net."""
    return [
        OperatorTime(
            LayerSpec("one", "conv", "s", width, width, kernel, 1, 64, 64),
            1.2 * (0.5 + kernel**2 / 40 + width / 16),
        )
        for width in (8, 16)
        for kernel in (3, 5, 7)
    ]


class TestLookupTable(PredictorContract):
    tolerance = 0.1
    unit_tolerance = 2.0  # the table's unit is that of the values: other values are other devices
    sources = Sources(layers=example_layers)

    def make(self, space: SearchSpace) -> Predictor:
        return LookupTable(space, layers=example_layers, table=table())


SPACE = SearchSpace([Gene("width", (8, 12, 16, 24, 32)), Gene("second", (False, True))])


def linear_layers(population: Population) -> list[LayerSpec]:
    columns = SPACE.columns(population)
    width = columns["width"].astype(np.int64)
    there = columns["second"].astype(bool)
    norm = LayerSpec("n", "batchnorm", "s", width, width)
    pool = LayerSpec("p", "pool", "s", width, width, positions_in=4)
    return [
        LayerSpec("a", "linear", "s", 64, width),
        norm,
        pool,
        LayerSpec("b", "linear", "s", width, width, active=there),
    ]


def measured(*shapes: tuple[int, int]) -> list[OperatorTime]:
    return [OperatorTime(LayerSpec("x", "linear", "s", i, o), 0.01 + i * o / 1000) for i, o in shapes]


def test_measured_shapes_are_exact_and_others_lie_between() -> None:
    rows = np.array([[0, 0], [2, 0], [4, 0], [1, 0], [3, 0]], dtype=np.uint8)  # widths 8, 16, 32, 12, 24
    model = LookupTable(SPACE, layers=linear_layers, table=measured((64, 8), (64, 16), (64, 32)))
    exact = 0.01 + 64 * np.array([8, 16, 32, 12, 24]) / 1000
    found = model.operators(rows)
    np.testing.assert_allclose(found[:3], exact[:3], rtol=1e-6)
    np.testing.assert_allclose(found[3:], exact[3:], rtol=0.05)
    # What has no entry and multiplies nothing takes no time; an inactive layer takes none.
    two = rows.copy()
    two[:, 1] = 1
    assert (model.operators(two) > found).all()


def test_calibration_on_whole_nets(tmp_path) -> None:
    rows = SPACE.enumerate()
    model = LookupTable(SPACE, layers=linear_layers, table=measured((64, 8), (64, 16), (64, 32), (8, 8), (32, 32)))
    values = 2.0 + 0.7 * model.operators(rows)
    model.fit(rows[:6], values[:6])
    assert model.constant_ == pytest.approx(2.0, rel=0.15)
    np.testing.assert_allclose(model.predict(rows).mean, values, rtol=0.05)
    save(model, tmp_path / "p", card=Card("latency_ms", "ms"))
    again = load(tmp_path / "p", sources=Sources(layers=linear_layers)).predictor
    np.testing.assert_array_equal(again.interval(rows)[1], model.interval(rows)[1])
    with pytest.raises(ValueError, match="a look-up table must be loaded with the layers"):
        load(tmp_path / "p")


def test_what_is_refused() -> None:
    rows = SPACE.enumerate()
    with pytest.raises(ValueError, match="table must hold at least one measured operator, but got none"):
        LookupTable(SPACE, layers=linear_layers, table=[])
    with pytest.raises(ValueError, match="an operator's time must be positive, but got 0"):
        OperatorTime(LayerSpec("x", "linear", "s", 1, 1), 0.0)
    conv = [OperatorTime(replace(measured((4, 4))[0].layer, kind="conv", kernel=3, positions=16), 1.0)]
    with pytest.raises(ValueError, match=r"table must hold an operator of kind 'linear' \(layer 'a'\), but has none"):
        LookupTable(SPACE, layers=linear_layers, table=conv).operators(rows)
    with pytest.raises(ValueError, match="values must be positive for a look-up table, but row 0 is -1"):
        LookupTable(SPACE, layers=linear_layers, table=measured((4, 4))).fit(rows[:2], np.array([-1.0, 2.0]))
