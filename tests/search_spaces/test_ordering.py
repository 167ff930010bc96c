"""Channel ordering: the largest network stays the same, important channels come first."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from search_spaces.ordering import importance, reorder_channels
from search_spaces.supernet import ChannelGroup, Supernet
from tests.search_spaces.nets import FAMILIES, small_mlp, supernet


def largest_output(net: Supernet) -> Tensor:
    inputs = net.family.example_inputs(batch=4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return net(inputs, net.space.largest())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_largest_network_computes_the_same(family: str) -> None:
    net = supernet(FAMILIES[family]())
    before = {name: t.clone() for name, t in net.tensors().items()}
    expected = largest_output(net)
    applied = reorder_channels(net)
    assert applied
    assert any((order != torch.arange(len(order))).any() for order in applied.values())
    torch.testing.assert_close(largest_output(net), expected, rtol=1e-4, atol=1e-5)
    assert any(not torch.equal(t, before[n]) for n, t in net.tensors().items())


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_descend_afterwards_and_sorting_again_changes_nothing(family: str) -> None:
    net = supernet(FAMILIES[family]())
    groups = net.family.channel_groups()
    reorder_channels(net)
    reorder_channels(net)  # stage widths first change the scores of mid channels: settle both
    reorder_channels(net)
    tensors = net.tensors()
    for group in groups:
        scores = importance(tensors[group.score[0]], group.score[1], group.block)
        assert (scores.diff() <= 1e-5).all(), group.score


def test_every_member_is_permuted_alike_and_ties_keep_their_order() -> None:
    net = supernet(small_mlp())
    tensors = net.tensors()
    with torch.no_grad():
        tensors["layer2.weight"].zero_()
        tensors["layer2.weight"][:, 3] = 1.0
        tensors["layer2.weight"][:, 7] = 2.0
        tensors["layer1.bias"].copy_(torch.arange(12.0))
    (name, order) = next(iter(reorder_channels(net, net.family.channel_groups()[:1]).items()))
    assert name == "layer2.weight"
    assert order.tolist() == [7, 3, 0, 1, 2, 4, 5, 6, 8, 9, 10, 11]
    assert net.tensors()["layer1.bias"].tolist() == [float(i) for i in order]


def test_blocks_of_channels_stay_together() -> None:
    net = supernet(small_mlp())
    with torch.no_grad():
        net.tensors()["layer1.bias"].copy_(torch.arange(12.0))
        net.tensors()["layer2.weight"].zero_()
        net.tensors()["layer2.weight"][0, 9] = 5.0
    group = ChannelGroup(
        (("layer1.weight", 0), ("layer1.bias", 0), ("layer2.weight", 1)), score=("layer2.weight", 1), block=4
    )
    reorder_channels(net, [group])
    assert net.tensors()["layer1.bias"].tolist() == [8.0, 9, 10, 11, 0, 1, 2, 3, 4, 5, 6, 7]


def test_importance_is_the_l1_norm_over_the_other_dimensions() -> None:
    weight = torch.tensor([[[1.0, -2.0], [0.0, 3.0]], [[-1.0, 1.0], [4.0, 0.0]]])  # (2, 2, 2)
    assert importance(weight, 0).tolist() == [6.0, 6.0]
    assert importance(weight, 1).tolist() == [5.0, 7.0]
    assert importance(weight, 2, block=2).tolist() == [12.0]
