"""Graph network: the contract, edges skip layers that are not there, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from predictors.base import Predictor, Sources
from predictors.files import Card, load, save
from predictors.graph_network import GraphNetwork
from search_spaces.layers import LayerSpec
from search_spaces.space import Population, SearchSpace
from tests.contracts.predictor_contract import PredictorContract, example_space, example_values


def example_layers(population: Population) -> list[LayerSpec]:
    """Two stages of convolutions like the contract's space, and the mode as a layer."""
    columns, out = example_space().columns(population), []
    for s in (1, 2):
        width = columns[f"stage{s}.width"].astype(np.int64)
        for b in (1, 2):
            kernel = columns[f"stage{s}.block{b}.kernel"].astype(np.int64)
            there = columns[f"stage{s}.depth"] >= b
            out.append(LayerSpec(f"s{s}b{b}", "conv", f"stage{s}", width, width, kernel, 1, 64, 64, active=there))
    out.append(LayerSpec("mode", "linear", "head", 8, 8, active=columns["mode"] == "b"))
    return out


class TestGraphNetwork(PredictorContract):
    tolerance = 0.6
    unit_tolerance = 0.02
    sources = Sources(layers=example_layers)

    def make(self, space: SearchSpace) -> Predictor:
        return GraphNetwork(space, layers=example_layers, width=8, steps=100)


def test_edges_skip_layers_that_are_not_there() -> None:
    space = example_space()
    model = GraphNetwork(space, layers=example_layers)
    rows = space.enumerate()
    graph = model._graph(rows)
    for i in (0, len(rows) // 2, len(rows) - 1):
        there = np.flatnonzero(graph.there[i].numpy())
        before, after = graph.before[i].numpy()[there], graph.after[i].numpy()[there]
        assert before.tolist() == [-1, *there[:-1]]
        assert after.tolist() == [*there[1:], -1]


def test_files_need_the_same_layers(tmp_path) -> None:
    space = example_space()
    rows = space.enumerate()[::20]
    model = GraphNetwork(space, layers=example_layers, width=4, steps=5).fit(rows, example_values(space, rows))
    save(model, tmp_path / "p", card=Card("latency_ms", "ms"))
    low, high = model.interval(rows)
    assert (low < high).all()
    with pytest.raises(ValueError, match="a graph network must be loaded with the layers"):
        load(tmp_path / "p")
    with pytest.raises(ValueError, match="the layers must be of the operator kinds"):
        load(tmp_path / "p", sources=Sources(layers=lambda p: example_layers(p)[:4]))
    with pytest.raises(ValueError, match="width and steps must be at least 1, but got 0 and 300"):
        GraphNetwork(space, layers=example_layers, width=0)
