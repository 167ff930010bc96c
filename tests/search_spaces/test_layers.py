"""Layer costs: equal to what is counted on built modules, for one architecture and for populations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from search_spaces import supernet as supernet_module
from search_spaces.layers import LayerSpec, total_costs
from search_spaces.sparsity import parse_pattern
from search_spaces.supernet import Supernet
from tests.search_spaces.nets import FAMILIES, SPARSITY, counted_macs, small_mlp, supernet

CASES = [(name, sparse) for name in FAMILIES for sparse in (False, True)]


@pytest.mark.parametrize(("family", "sparse"), CASES)
def test_costs_equal_counts_on_built_modules(family: str, sparse: bool) -> None:
    net = supernet(FAMILIES[family](), sparse=sparse)
    rows = np.concatenate(
        [
            net.space.sample(12, np.random.default_rng(0)),
            net.space.row(net.space.smallest())[None],
            net.space.row(net.space.largest())[None],
        ]
    )
    costs = net.costs(rows)
    for i, arch in enumerate(net.space.architectures(rows)):
        subnet = net.extract(arch)
        assert costs.macs[i] == counted_macs(subnet, net.family.example_inputs())
        assert costs.parameters[i] == sum(p.numel() for p in subnet.parameters())
        # Random weights hold no zeros, so what is zero was masked.
        assert costs.nonzeros[i] == sum(int((p != 0).sum()) for p in subnet.parameters())
        dense = sum(t.numel() * t.element_size() for t in (*subnet.parameters(), *subnet.buffers()))
        assert costs.stored_bytes[i] <= dense
        if not sparse:
            assert costs.stored_bytes[i] == dense
        assert costs.metrics(i) == net.layer_costs(arch).metrics()


@pytest.mark.parametrize(("family", "sparse"), CASES)
def test_costs_of_populations_are_the_sums_of_the_layers_own_costs(family: str, sparse: bool) -> None:
    net = Supernet(FAMILIES[family](), sparsity=SPARSITY if sparse else None, meta=True)
    rows = net.space.sample(500, np.random.default_rng(0))
    layers = net.layers(rows)
    weights, parameters = (sum(np.asarray(getattr(x, m)()) for x in layers) for m in ("weights", "parameters"))
    costs = net.costs(rows)
    assert np.array_equal(costs.macs, sum(x.macs() for x in layers))
    assert np.array_equal(costs.parameters, parameters)
    assert np.array_equal(costs.nonzeros, parameters - weights + sum(x.nonzeros() for x in layers))
    stored = 4 * (parameters - weights) + sum(x.weight_bytes() + x.buffer_bytes() for x in layers)
    assert np.array_equal(costs.stored_bytes, stored)
    peak = np.max([np.broadcast_to(x.activation_bytes(), (500,)) for x in layers], axis=0)
    assert np.array_equal(costs.activation_bytes, peak)


def test_costs_do_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Supernet(small_mlp(), sparsity=SPARSITY, meta=True)
    rows = net.space.enumerate()
    whole = net.costs(rows)
    monkeypatch.setattr(supernet_module, "COST_CHUNK", 7)
    assert all(np.array_equal(getattr(net.costs(rows), m), getattr(whole, m)) for m in whole.METRICS)


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_of_an_architecture_are_the_modules_that_it_has(family: str) -> None:
    net = supernet(FAMILIES[family]())
    for arch in (net.space.smallest(), net.space.largest()):
        subnet = net.build(arch)
        weighted = {n for n, m in subnet.named_modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.BatchNorm2d)}
        layers = [layer for layer in net.layer_costs(arch).layers if bool(np.all(layer.active))]
        assert {layer.name for layer in layers} == weighted
        for layer in layers:
            module = subnet.get_submodule(layer.name)
            weight = module.weight
            assert isinstance(weight, torch.Tensor)
            assert int(np.squeeze(layer.parameters())) == sum(p.numel() for p in module.parameters()), layer.name
            if not isinstance(module, nn.BatchNorm2d):
                assert int(np.squeeze(layer.weights())) == weight.numel()


def test_peak_activation_is_the_largest_live_sum() -> None:
    """16 -> 4 -> 6 -> 3 values in fp32: the first layer holds 16 + 4 of them."""
    net = Supernet(small_mlp(), meta=True)
    assert net.layer_costs(net.space.smallest()).activation_bytes.tolist() == [4 * (16 + 4)]
    assert net.layer_costs(net.space.largest()).activation_bytes.tolist() == [4 * (16 + 12)]


def test_peak_activation_of_a_residual_block_holds_the_shortcut() -> None:
    """By hand for the largest small mobilenet: depthwise of stage 1, block 2 reads and writes 16 * 3 = 48 channels.

    9x9 through the stem (stride 2) is 5x5, through stage 1 (stride 2) 3x3; block 2 holds 16 channels of 3x3.
    The widest moment is stage 1, block 1 instead: expand's norm reads and writes 24 channels of 5x5.
    """
    net = Supernet(FAMILIES["mobilenet"](), meta=True)
    costs = net.layer_costs(net.space.largest())
    assert costs.activation_bytes.tolist() == [4 * (24 * 25 + 24 * 25)]
    depthwise = next(x for x in costs.layers if x.name == "stage1.block2.depthwise.conv")
    assert np.squeeze(depthwise.activation_bytes()) == 4 * (48 * 9 + 48 * 9 + 16 * 9)


def test_costs_of_nobody() -> None:
    net = Supernet(small_mlp(), sparsity=SPARSITY, meta=True)
    assert net.costs(np.zeros((0, net.space.n_genes), np.uint8)).macs.shape == (0,)


@pytest.mark.parametrize(
    ("layer", "macs", "parameters", "state"),
    [
        (LayerSpec("a", "linear", "s", 3, 5, bias=True), 15, 20, 0),
        (LayerSpec("a", "conv", "s", 4, 6, kernel=3, positions=10), 4 * 6 * 9 * 10, 4 * 6 * 9, 0),
        (LayerSpec("a", "conv", "s", 4, 4, kernel=3, groups=4, positions=10), 4 * 9 * 10, 4 * 9, 0),
        (LayerSpec("a", "batchnorm", "s", 4, 4, positions=10), 0, 8, 4 * 8 + 8),
        (LayerSpec("a", "layernorm", "s", 4, 4, positions=10), 0, 8, 0),
        (LayerSpec("a", "embedding", "s", 100, 8, positions=10), 0, 800, 0),
        (LayerSpec("a", "matmul", "s", 8, 10, positions=7), 560, 0, 0),
        (LayerSpec("a", "pool", "s", 8, 8, positions_in=4), 0, 0, 0),
        (LayerSpec("a", "linear", "s", 3, 5, bias=True, active=False), 0, 0, 0),
    ],
)
def test_each_kind_of_layer(layer: LayerSpec, macs: int, parameters: int, state: int) -> None:
    assert (layer.macs(), layer.parameters(), layer.buffer_bytes()) == (macs, parameters, state)
    costs = total_costs([layer], 1)
    assert costs.metrics()["nonzeros"] == parameters
    assert costs.metrics()["stored_bytes"] == 4 * parameters + state


def test_depthwise_and_unprunable_layers_stay_dense() -> None:
    sparse = (parse_pattern("unstructured-0.5"),)
    depthwise = LayerSpec("a", "conv", "s", 4, 4, groups=4, kernel=3, patterns=sparse)
    classifier = LayerSpec("b", "linear", "s", 4, 4, prunable=False, patterns=sparse)
    linear = LayerSpec("c", "linear", "s", 4, 4, patterns=sparse)
    assert not depthwise.may_be_sparse
    assert not classifier.may_be_sparse
    assert [int(x.nonzeros()) for x in (depthwise, classifier, linear)] == [36, 16, 8]
