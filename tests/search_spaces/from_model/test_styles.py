"""Every style: exact costs, bit-equal full size, and a subnet that equals the original with zeroed channels."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from search_spaces.from_model import FromModel, space_from_model
from search_spaces.supernet import Supernet
from tests.search_spaces.from_model.styles import STYLES, Style, made
from tests.search_spaces.nets import counted_macs

FEW, MANY = 5, 50
counts = pytest.mark.parametrize("n", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])


@cache
def net_of(style: Style) -> tuple[nn.Module, Supernet]:
    module = made(style)
    return module, Supernet(space_from_model(module, style.example()))


def family(net: Supernet) -> FromModel:
    assert isinstance(net.family, FromModel)
    return net.family


def outputs(module: nn.Module, example: Any) -> list[Tensor]:
    with torch.no_grad():
        out = (
            module(**example)
            if isinstance(example, Mapping)
            else module(*(example if isinstance(example, tuple) else (example,)))
        )
    if hasattr(out, "items"):
        out = dict(out.items())
    return list(pytree.tree_leaves(out))


def example(style: Style) -> Any:
    generator = torch.Generator().manual_seed(1)
    given = style.example()
    return pytree.tree_map(
        lambda x: x if not x.is_floating_point() else torch.randn(x.shape, generator=generator), given
    )


@pytest.mark.parametrize("style", STYLES, ids=lambda s: s.name)
class TestStyles:
    def test_the_full_size_is_bit_equal(self, style: Style) -> None:
        module, net = net_of(style)
        x = example(style)
        subnet = net.extract(net.space.largest())
        for mine, theirs in zip(outputs(subnet, x), outputs(module, x), strict=True):
            assert torch.equal(mine, theirs)
        assert type(subnet).__name__ == type(module).__name__
        assert not any(type(m).__module__.startswith(("tests", "transformers")) for m in subnet.modules())

    @counts
    def test_subnets_run_and_costs_are_exact(self, style: Style, n: int) -> None:
        _, net = net_of(style)
        x = example(style)
        population = net.space.sample(n, np.random.default_rng(0))
        costs = net.costs(population)
        for i, arch in enumerate(net.space.architectures(population)):
            subnet = net.extract(arch)
            assert all(torch.isfinite(y).all() for y in outputs(subnet, x))
            assert costs.parameters[i] == sum(p.numel() for p in subnet.parameters())
            stored = sum(t.numel() * t.element_size() for t in (*subnet.parameters(), *subnet.buffers()))
            assert costs.stored_bytes[i] == stored
            assert costs.metrics(i) == net.layer_costs(arch).metrics()

    @counts
    def test_a_subnet_is_the_original_with_zeroed_channels(self, style: Style, n: int) -> None:
        """Independent of the graph: the user's own module, with zeros in every removed row and column."""
        _, net = net_of(style)
        x = example(style)
        made_from = family(net)
        whole = net.space.largest()
        for arch in net.space.architectures(net.space.sample(n, np.random.default_rng(1))):
            wanted = {g: v for g, v in arch.items() if g.endswith((".width", ".heads", ".groups"))}
            arch = net.space.architecture({**whole, **wanted})
            keep = made_from.selection(arch).keep
            zeroed = made(style)
            tensors = dict(zeroed.named_parameters(remove_duplicate=False)) | dict(zeroed.named_buffers())
            with torch.no_grad():
                for name, axes in made_from.state.parameters.items():
                    for dim, label in enumerate(axes):
                        if label is not None and name in tensors:
                            gone = torch.from_numpy(np.flatnonzero(~keep[label]))
                            tensors[name].index_fill_(dim, gone, 0)
            for mine, theirs in zip(outputs(net.extract(arch), x), outputs(zeroed, x), strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)

    def test_branches_that_can_be_left_out(self, style: Style) -> None:
        _, net = net_of(style)
        assert len(family(net).branches) == style.depth

    def test_macs_of_layers(self, style: Style) -> None:
        _, net = net_of(style)
        if style.name in {"lstm", "gru", "unet", "tied"}:  # the counter knows convolutions and linear layers
            pytest.skip("the counting hook does not know these layers")
        for arch in net.space.architectures(net.space.sample(3, np.random.default_rng(2))):
            subnet = net.extract(arch)
            layers = net.layer_costs(arch)
            products = sum(int(np.sum(s.macs())) for s in layers.layers if s.kind == "matmul")
            inputs = tuple(t[:1] for t in family(net).captured.example)
            assert layers.macs[0] == products + counted_macs(subnet, inputs)
