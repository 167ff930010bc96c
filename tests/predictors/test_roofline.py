"""Roofline: the contract, known peak numbers are found again, extrapolation, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from predictors.base import Predictor, Sources
from predictors.files import Card, load, save
from predictors.ridge import Ridge
from predictors.roofline import Roofline
from search_spaces.layers import LayerSpec
from search_spaces.mobilenet import MobileNet, Stage
from search_spaces.space import Population, SearchSpace
from search_spaces.supernet import Supernet
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


class TestRoofline(PredictorContract):
    tolerance = 0.6  # the contract's values are no roofline
    sources = Sources(layers=example_layers)

    def make(self, space: SearchSpace) -> Predictor:
        return Roofline(space, layers=example_layers)


@pytest.fixture(scope="module")
def net() -> Supernet:
    stages = [Stage((8, 16)), Stage((16, 24)), Stage((24, 32))]
    return Supernet(MobileNet(input_shape=(3, 16, 16), n_classes=4, stages=stages), meta=True)


def test_a_device_that_is_a_roofline_is_known_after_20_rows(net: Supernet, tmp_path) -> None:
    rows = net.space.sample(320, np.random.default_rng(0))
    device = Roofline(net.space, layers=net.layers, batch=4)
    work = device._work(rows)
    truth = device._even_split(work, np.ones(len(rows)))
    truth += np.random.default_rng(1).normal(0, 1, len(truth))
    values = device._times(work, truth)[0]
    device.fit(rows[:20], values[:20])
    error = np.abs(device.predict(rows[20:]).mean / values[20:] - 1).mean()
    alone = np.abs(Ridge(net.space).fit(rows[:20], values[:20]).predict(rows[20:]).mean / values[20:] - 1).mean()
    assert error < 0.01 and error < 0.3 * alone
    assert set(device.peaks()) == {
        *(f"{k} MACs per unit" for k in device.kinds),
        "bytes per unit",
        "launch",
        "constant",
    }
    assert all(v > 0 for v in device.peaks().values())
    low, high = device.interval(rows[20:])
    assert (low < high).all()
    save(device, tmp_path / "p", card=Card("latency_ms", "ms"))
    again = load(tmp_path / "p", sources=Sources(layers=net.layers)).predictor
    np.testing.assert_array_equal(again.interval(rows)[0], device.interval(rows)[0])
    with pytest.raises(ValueError, match="a roofline must be loaded with the layers"):
        load(tmp_path / "p")
    with pytest.raises(ValueError, match="the layers must be of the operator kinds"):
        load(tmp_path / "p", sources=Sources(layers=lambda p: net.layers(p)[:1]))


def test_slopes_are_the_derivative(net: Supernet) -> None:
    rows = net.space.sample(10, np.random.default_rng(0))
    device = Roofline(net.space, layers=net.layers)
    work = device._work(rows)
    logs = device._even_split(work, np.ones(10))
    logs += np.linspace(-1, 1, len(logs))
    slope = device._times(work, logs)[1]
    for i in range(len(logs)):
        step = 1e-6 * (np.arange(len(logs)) == i)
        numeric = (device._times(work, logs + step)[0] - device._times(work, logs - step)[0]) / 2e-6
        np.testing.assert_allclose(slope[:, i], numeric, rtol=1e-5, atol=1e-9)


def test_what_is_refused(net: Supernet) -> None:
    rows = net.space.sample(3, np.random.default_rng(0))
    with pytest.raises(ValueError, match="values must be positive for a roofline, but row 1 is -1"):
        Roofline(net.space, layers=net.layers).fit(rows, np.array([1.0, -1.0, 2.0]))
    with pytest.raises(ValueError, match="batch must be at least 1, but got 0"):
        Roofline(net.space, layers=net.layers, batch=0)
