"""Low rank: exact at full rank, best below it, and a gene of any family with exact costs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from search_spaces.low_rank import LowRank, factorise, merge, rank_of
from search_spaces.mlp import MLP
from search_spaces.mobilenet import MobileNet, Stage
from search_spaces.ordering import reorder_channels
from search_spaces.supernet import SparsityGenes, Supernet


def layers():
    torch.manual_seed(0)
    yield nn.Linear(6, 9), torch.randn(4, 6), 6
    yield nn.Linear(6, 9, bias=False), torch.randn(4, 6), 6
    yield nn.Conv2d(3, 8, 3, stride=2, padding=1), torch.randn(2, 3, 9, 9), 8
    yield nn.Conv2d(5, 4, 1, bias=False), torch.randn(2, 5, 4, 4), 4


@pytest.mark.parametrize("case", range(4))
def test_full_rank_equals_the_dense_layer(case):
    layer, x, full = list(layers())[case]
    pair = factorise(layer, full)
    assert torch.allclose(pair(x), layer(x), atol=1e-5)
    assert torch.allclose(merge(pair).weight, layer.weight, atol=1e-6)
    assert torch.allclose(merge(pair)(x), layer(x), atol=1e-5)


@pytest.mark.parametrize("case", range(4))
def test_lower_ranks_are_the_best_ones_and_prefixes_of_higher_ones(case):
    layer, _, full = list(layers())[case]
    values = torch.linalg.svdvals(layer.weight.detach().reshape(len(layer.weight), -1))
    error = (merge(factorise(layer, 2)).weight - layer.weight).square().sum()
    assert error.item() == pytest.approx(values[2:].square().sum().item(), rel=1e-4)
    small, large = factorise(layer, 2), factorise(layer, full)
    assert torch.allclose(small.reduce.weight, large.reduce.weight[:2], atol=1e-6)
    assert torch.allclose(small.expand.weight, large.expand.weight[:, :2], atol=1e-6)


def test_bad_ranks_and_layers_are_refused():
    with pytest.raises(ValueError, match="rank must be between 1 and 3, but got 4"):
        factorise(nn.Linear(3, 5), 4)
    with pytest.raises(ValueError, match="a low-rank convolution must have groups = 1, but got 2"):
        factorise(nn.Conv2d(4, 4, 3, groups=2), 2)
    with pytest.raises(ValueError, match=r"rank ratios must be in \(0, 1\], at least one, but got \[0.5, 2.0\]"):
        LowRank(MLP(input_shape=(4,), n_classes=2, hidden=((4,),)), ratios=(0.5, 2.0))


def test_ranks_round_to_at_least_one():
    assert rank_of(0.5, 9, 6).item() == 3
    assert rank_of(0.01, 9, 6).item() == 1
    assert rank_of(np.array([0.5, 1.0]), 64, np.array([8, 8]), 3).tolist() == [32, 64]


def families():
    yield LowRank(MLP(input_shape=(1, 4, 4), n_classes=3, hidden=((4, 8), (6, 12))), ratios=(0.25, 0.5, 1.0))
    stages = (Stage(width=(8, 16), depth=(1, 2), kernel=(3, 5), expand=(1, 2)),)
    yield LowRank(MobileNet(input_shape=(1, 8, 8), n_classes=3, stem=8, head=16, stages=stages), ratios=(0.25, 0.5))


@pytest.mark.parametrize("case", range(2))
def test_a_low_rank_family_is_a_family(case):
    family = list(families())[case]
    net = Supernet(family, sparsity=SparsityGenes(("dense", "unstructured-0.5"))).eval()
    rows = net.space.sample(12, np.random.default_rng(0))
    costs = net.costs(rows)
    for i, arch in enumerate(net.space.architectures(rows)):
        module = net.extract(arch)
        (x,) = family.example_inputs(batch=2, generator=torch.Generator().manual_seed(i))
        assert torch.equal(module(x), net(x, arch))
        assert sum(p.numel() for p in module.parameters()) == costs.parameters[i]
        assert sum(int(torch.count_nonzero(p)) if "weight" in n and p.dim() > 1 else p.numel()
                   for n, p in module.named_parameters()) == costs.nonzeros[i]  # fmt: skip
    names = [n for n, _ in module.named_parameters()]
    assert any(".reduce." in n for n in names) and not any("classifier.reduce" in n for n in names)


@pytest.mark.parametrize("case", range(2))
def test_reordering_channels_and_ranks_leaves_the_largest_net_alone(case):
    net = Supernet(list(families())[case]).eval()
    (x,) = net.family.example_inputs(batch=2, generator=torch.Generator().manual_seed(0))
    before, largest = net(x, net.space.largest()), net.space.largest()
    applied = reorder_channels(net)
    assert any(name.endswith("expand.weight") for name in applied)
    assert torch.allclose(net(x, largest), before, atol=1e-5)


def test_macs_of_factors_in_closed_form():
    family = LowRank(MLP(input_shape=(16,), n_classes=4, hidden=((8,),)), ratios=(0.5,))
    assert Supernet(family).layer_costs(family.space.largest()).macs.tolist() == [16 * 4 + 4 * 8 + 8 * 4]
