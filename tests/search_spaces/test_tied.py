"""Weights that a network uses twice stay one tensor: in training, in copies and when loaded."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from search_spaces.architecture import Architecture
from search_spaces.genes import Gene
from search_spaces.layers import LayerSpec
from search_spaces.space import SearchSpace
from search_spaces.supernet import Columns, Family, Supernet


class Tied(nn.Module):
    """One module used under two names, and a second module that shares its weight with it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.again = self.first
        self.shared = nn.Linear(width, width)
        self.shared.weight = self.first.weight
        self.register_buffer("scale", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, : self.first.in_features]
        return self.shared(self.again(self.first(x))) * self.scale


class TiedFamily(Family):
    """Widths 2 and 4."""

    name = "tied"
    input_shape = (4,)
    space = SearchSpace([Gene("width", (2, 4))])

    def build(self, arch: Architecture) -> nn.Module:
        return Tied(arch.integer("width"))

    def layers(self, columns: Columns) -> list[LayerSpec]:
        return [LayerSpec("first", "linear", "body", columns["width"], columns["width"], bias=True)]


def test_what_is_shared_stays_shared() -> None:
    net = Supernet(TiedFamily())
    assert set(net.tensors()) == {"first.weight", "first.bias", "shared.bias", "scale"}
    other = Supernet(TiedFamily(), meta=True)
    other.load_arrays(net.to_arrays())
    for module in (net.full, other.full, *(other.extract(a) for a in (net.space.smallest(), net.space.largest()))):
        assert isinstance(module, Tied)
        assert module.again is module.first
        assert module.shared.weight is module.first.weight
    x = torch.randn(3, 4)
    for arch in (net.space.smallest(), net.space.largest()):
        assert torch.equal(net(x, arch), other.extract(arch)(x))


def test_gradients_of_all_uses_add_up() -> None:
    net = Supernet(TiedFamily())
    x = torch.randn(3, 4)
    net(x, net.space.largest()).sum().backward()
    plain = net.extract(net.space.largest())
    plain(x).sum().backward()
    assert isinstance(plain, Tied)
    grad = net.full.get_parameter("first.weight").grad
    assert grad is not None
    assert plain.first.weight.grad is not None
    torch.testing.assert_close(grad, plain.first.weight.grad)
    assert all(t.is_meta for t in net.build(net.space.largest()).parameters())  # nothing is left behind


def test_a_frozen_parameter_stays_frozen() -> None:
    net = Supernet(TiedFamily())
    net.full.get_parameter("shared.bias").requires_grad_(False)
    net.load_arrays(net.to_arrays())
    assert not net.full.get_parameter("shared.bias").requires_grad
    assert net.full.get_parameter("first.bias").requires_grad
