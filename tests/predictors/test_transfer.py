"""Transfer: the contract, few rows by the right source, many rows beyond all sources, files, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from predictors.active import choose_next
from predictors.base import Predictor, Sources
from predictors.files import Card, load, save
from predictors.ridge import Ridge
from predictors.transfer import Transfer
from search_spaces.genes import Gene
from search_spaces.mobilenet import MobileNet, Stage
from search_spaces.space import SearchSpace
from search_spaces.supernet import Supernet
from tests.contracts.predictor_contract import PredictorContract, example_space, example_values


def devices(space: SearchSpace) -> dict[str, Predictor]:
    """Three known devices: one alike the contract's, one that sees depth only, one that sees the mode only."""
    rows = space.enumerate()[::3]
    columns = space.columns(rows)
    depth = columns["stage1.depth"] + 2.0 * columns["stage2.depth"]
    values = {
        "alike": 5 * example_values(space, rows),
        "depth": 1.0 + depth,
        "mode": 2.0 + (columns["mode"] == "b"),
    }
    return {name: Ridge(space).fit(rows, v) for name, v in values.items()}


class TestTransfer(PredictorContract):
    tolerance = 0.15

    def make(self, space: SearchSpace) -> Predictor:
        return Transfer(space, devices=devices(space))


def test_five_rows_find_the_source_that_is_alike() -> None:
    space = example_space()
    rows = np.random.default_rng(0).permutation(space.enumerate())
    values = example_values(space, rows)
    model = Transfer(space, devices=devices(space)).fit(rows[:5], values[:5])
    relevance = model.relevance()
    assert next(iter(relevance)) == "alike" and relevance["alike"] > 0.8
    assert sum(relevance.values()) == pytest.approx(1.0)
    few = np.abs(model.predict(rows[5:]).mean / values[5:] - 1).mean()
    alone = np.abs(Ridge(space).fit(rows[:5], values[:5]).predict(rows[5:]).mean / values[5:] - 1).mean()
    assert few < 0.08 and few < 0.7 * alone
    # Positive values are taken in logarithms, whose intervals stay positive.
    low, high = model.interval(rows[5:])
    assert model.log_ and (low > 0).all() and ((low <= values[5:]) & (values[5:] <= high)).mean() > 0.85


def test_a_source_that_runs_the_other_way_is_not_used() -> None:
    space = example_space()
    rows = np.random.default_rng(0).permutation(space.enumerate())[:12]
    values = example_values(space, rows)
    upside_down = Ridge(space).fit(rows, -values)
    model = Transfer(space, devices={**devices(space), "down": upside_down}).fit(rows, values)
    assert not model.log_  # a source that answers negative values has no logarithm
    assert model.relevance()["down"] == 0.0


def test_many_rows_learn_what_no_source_knows() -> None:
    space = example_space()
    rows = np.random.default_rng(1).permutation(space.enumerate())
    extra = 2.0 * (space.columns(rows)["stage1.block1.kernel"] == 5)
    values = example_values(space, rows) + extra
    known = devices(space)
    few = Transfer(space, devices=known).fit(rows[:10], values[:10])
    many = Transfer(space, devices=known).fit(rows[:60], values[:60])
    assert few.residual_ is None and many.residual_ is not None and many.share_ > 0
    without = Transfer(space, devices=known).fit(rows[:60], values[:60])
    without.residual_ = None

    def error(model: Transfer) -> float:
        return float(np.abs(model.predict(rows[60:]).mean - values[60:]).mean())

    assert error(many) < 0.5 * error(without)


def test_the_residual_reads_layer_costs_and_is_stored(tmp_path) -> None:
    net = Supernet(MobileNet(input_shape=(3, 16, 16), n_classes=4, stages=[Stage((8, 16)), Stage((16, 24))]), meta=True)
    rows = net.space.sample(60, np.random.default_rng(0))
    costs = net.costs(rows)
    source = Ridge(net.space).fit(rows, costs.macs / 1e5 + 1)
    values = costs.macs / 1e5 + 3 * costs.parameters / costs.parameters.mean() + 1
    model = Transfer(net.space, devices={"a": source}, layers=net.layers).fit(rows[:30], values[:30])
    assert model.share_ > 0
    save(model, tmp_path / "p", card=Card("latency_ms", "ms"))
    again = load(tmp_path / "p", sources=Sources(layers=net.layers)).predictor
    assert isinstance(again, Transfer) and again.relevance() == model.relevance()
    # To rounding: matrix products of loaded arrays may be summed in another order.
    np.testing.assert_allclose(again.predict(rows).mean, model.predict(rows).mean, rtol=1e-12)
    np.testing.assert_allclose(again.interval(rows)[1], model.interval(rows)[1], rtol=1e-12)


def test_what_to_measure_first_is_chosen_by_the_sources_answers() -> None:
    space = example_space()
    model = Transfer(space, devices=devices(space))  # not fitted
    embedded = model.embed(space.enumerate())
    np.testing.assert_allclose(embedded.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(embedded.std(axis=0), 1)
    rng = np.random.default_rng(0)
    spread, chance = [], []
    for _ in range(5):
        chosen = choose_next(space, space.enumerate()[:0], 6, embed=model.embed, rng=rng)
        spread.append(model.devices["alike"].predict(chosen).mean.std())
        chance.append(model.devices["alike"].predict(space.sample(6, rng)).mean.std())
    assert np.mean(spread) > 1.3 * np.mean(chance)


def test_arguments_are_checked() -> None:
    space = example_space()
    with pytest.raises(ValueError, match="devices must name at least one predictor of another device, but got none"):
        Transfer(space, devices={})
    other = SearchSpace([Gene("a", (1, 2))])
    foreign = Ridge(other).fit(other.enumerate(), np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match="devices must be of one search space, but 'far' is of another"):
        Transfer(space, devices={"far": foreign})
    unfitted = Transfer(space, devices=devices(space))
    with pytest.raises(RuntimeError, match="predictor 'transfer' must be fitted"):
        unfitted.relevance()
