"""Copies of a module's structure."""

from __future__ import annotations

import copy

import torch
from torch import nn

from search_spaces.structure import copy_structure


class Odd(nn.Module):
    """Attributes of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU())
        self.again = self.layer[0]
        self.absent = None
        self.register_module("nothing", None)
        self.sizes = [1, 2]
        self.table = {"a": [3]}
        self.shift = nn.Parameter(torch.ones(2))
        self.others = (self.layer, self.shift)


def test_structure_is_new_and_tensors_are_shared() -> None:
    module = Odd().eval()
    module.layer.train()
    made = copy_structure(module)
    assert type(made) is Odd
    assert repr(made) == repr(module)
    assert [m.training for m in made.modules()] == [m.training for m in module.modules()]
    assert not {id(m) for m in made.modules()} & {id(m) for m in module.modules()}
    assert made.again is made.layer[0]
    assert made.others[0] is made.layer
    assert made.others[1] is module.shift
    assert dict(made.named_parameters()).keys() == dict(module.named_parameters()).keys()
    assert all(a is b for a, b in zip(made.parameters(), module.parameters(), strict=True))
    made.sizes.append(3)
    made.table["a"].append(4)
    assert module.sizes == [1, 2] and module.table == {"a": [3]}


def test_replacing_tensors_leaves_the_original_alone() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    before = copy.deepcopy(module.state_dict())
    made = copy_structure(module)
    made.load_state_dict({name: torch.full_like(t, 7) for name, t in module.state_dict().items()}, assign=True)
    made.register_forward_hook(lambda *_: None)
    made.append(nn.ReLU())
    assert len(module) == 2 and not module._forward_hooks
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    made.train()
    made(torch.randn(4, 2))
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
