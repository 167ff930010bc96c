"""Options, criteria, repair and messages of spaces made from a user's module."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from search_spaces.from_model import CaptureError, FromModel, SpaceOptions, space_from_model
from search_spaces.from_model.groups import _counts
from search_spaces.from_model.importance import CRITERIA, WITH_DATA, importance
from search_spaces.from_model.views import stretches
from search_spaces.supernet import SparsityGenes, Supernet
from tests.search_spaces.from_model.styles import Grouped, Residual, conv


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(6, 32), nn.BatchNorm1d(32), nn.Linear(32, 24)
        self.out = nn.Linear(24, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.down(torch.relu(self.norm(self.up(x))))))


def small() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Small().eval()


def data(n: int = 200, seed: int = 1) -> Tensor:
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))


def made(**options: Any) -> FromModel:
    return space_from_model(small(), data(4), options=SpaceOptions(**options), calibration=[(data(),)])


def test_counts_are_rounded_to_the_devices_multiple() -> None:
    assert _counts(64, 1, (0.3, 0.5), 8) == (16, 32, 64)  # 19.2 channels are 16
    assert _counts(12, 32, (0.3, 0.5), 8) == (4, 6, 12)  # heads of 32 are multiples of 8 anyway
    assert _counts(12, 4, (0.3,), 8) == (4, 12)  # two heads at a time
    assert _counts(6, 1, (0.5,), 8) == (3, 6)  # fewer than one multiple


def test_runs_of_dimensions_that_hold_the_same_elements() -> None:
    assert stretches((2, 6, 4), (2, 24)) == [([0], [0]), ([1, 2], [1])]
    assert stretches((2, 5, 12), (2, 5, 3, 4)) == [([0], [0]), ([1], [1]), ([2], [2, 3])]
    assert stretches((2, 1, 6), (2, 6, 1)) == [([0], [0]), ([2], [1])]


def test_the_module_is_left_alone() -> None:
    module = small().train()
    before = copy.deepcopy(module.state_dict())
    net = Supernet(space_from_model(module, data(4)))
    net.extract(net.space.smallest())
    assert module.training and all(torch.equal(t, before[n]) for n, t in module.state_dict().items())


def test_a_batch_of_one_will_do() -> None:
    net = Supernet(space_from_model(small(), data(1)))
    assert net.extract(net.space.smallest())(data(7)).shape == (7, 2)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_keeps_the_channel_that_matters(criterion: str) -> None:
    module = small()
    assert isinstance(module, Small)
    with torch.no_grad():  # channel 5 of `up` is large all the way
        module.up.weight[5] *= 10
        module.norm.weight[5] = 10
        module.down.weight[:, 5] *= 10
    family = space_from_model(module, data(4), options=SpaceOptions(importance=criterion), calibration=[(data(),)])
    group = next(g for g in family.groups if g.gene == "up.width")
    label = family.state.parameters["up.weight"][0]
    assert label is not None and group.units[0] == family.units.of[label[5]]


def test_criteria_that_need_data_say_so() -> None:
    family = made()
    for criterion in WITH_DATA:
        with pytest.raises(ValueError, match=f"importance '{criterion}' must have calibration data, but got none"):
            importance(family, criterion)
    with pytest.raises(ValueError, match=r"importance must be one of .*, but got 'luck'"):
        importance(family, "luck")


def error(family: FromModel, seed: int = 9) -> float:
    """Mean squared error of the smallest net on data that repair has not seen."""
    net = Supernet(family)
    arch = net.space.smallest()
    subnet = net.extract(arch)
    family.finish(subnet, arch, [])
    with torch.no_grad():
        return float((subnet(data(seed=seed)) - small()(data(seed=seed))).square().mean())


def test_repair_brings_outputs_back() -> None:
    plain, bias, fitted = (error(made(repair=r)) for r in ("none", "bias", "least_squares"))
    assert fitted < bias < plain and fitted < 0.5 * plain


def test_repair_leaves_the_full_size_and_zeros_alone() -> None:
    family = made(repair="least_squares")
    net = Supernet(family, sparsity=SparsityGenes(("dense", "unstructured-0.5"), per="model"))
    whole = net.extract(net.space.largest())
    family.finish(whole, net.space.largest(), [])
    assert torch.equal(whole(data()), small()(data()))
    sparse = net.space.architecture({**net.space.smallest(), "model.sparsity": "unstructured-0.5"})
    subnet = net.extract(sparse)
    before = {n: (p == 0).clone() for n, p in subnet.named_parameters()}
    wanted = small()(data(seed=9))
    plain = (subnet(data(seed=9)) - wanted).square().mean()
    family.finish(subnet, sparse, [])
    assert all((p[before[n]] == 0).all() for n, p in subnet.named_parameters())
    assert (subnet(data(seed=9)) - wanted).square().mean() < 0.7 * plain


def test_ranks_are_exact_costs_and_full_rank_is_the_layer() -> None:
    net = Supernet(made(ranks=(0.25, 0.5)))
    assert "down.rank" in net.space.index and "up.rank" not in net.space.index  # 6 inputs are few
    for arch in net.space.architectures(net.space.sample(20, np.random.default_rng(0))):
        subnet = net.extract(arch)
        assert subnet(data()).shape == (200, 2)
        assert net.layer_costs(arch).parameters[0] == sum(p.numel() for p in subnet.parameters())
    whole = net.space.largest()
    half = net.extract(net.space.architecture({**whole, "down.rank": 0.5}))
    weight = small().get_parameter("down.weight").detach()
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    best = left[:, :12] * values[:12] @ right[:12]
    down = half.get_submodule("down")
    product = down.get_parameter("expand.weight") @ down.get_parameter("reduce.weight")
    torch.testing.assert_close(product, best, rtol=1e-4, atol=1e-5)


def test_a_branch_left_out_is_the_original_without_it() -> None:
    module = Residual().eval()
    x = torch.randn(2, 3, 8, 8)
    net = Supernet(space_from_model(module, x))
    arch = net.space.architecture(
        {g: v for g, v in {**net.space.largest(), "layer1.1.keep": 0}.items() if g != "layer1.1.conv1.width"}
    )
    module.layer1 = module.layer1[:1]
    with torch.no_grad():
        assert torch.equal(net.extract(arch)(x), module(x))


def test_a_cropped_kernel_is_the_original_with_a_zero_border() -> None:
    module = Grouped().eval()
    x = torch.randn(2, 3, 8, 8)
    net = Supernet(space_from_model(module, x))
    arch = net.space.architecture({**net.space.largest(), "depthwise.kernel": 3})
    with torch.no_grad():
        border = torch.ones(5, 5, dtype=torch.bool)
        border[1:4, 1:4] = False
        module.depthwise.weight[:, :, border] = 0
        torch.testing.assert_close(net.extract(arch)(x), module(x), rtol=1e-5, atol=1e-5)


def test_gradients_reach_the_full_weights_through_what_is_kept() -> None:
    net = Supernet(made())
    arch = net.space.smallest()
    net(data(), arch).square().sum().backward()
    rows = net.full.get_parameter("up.weight").grad
    assert rows is not None
    assert int((rows != 0).any(1).sum()) == arch["up.width"]


def test_modules_that_stay_are_listed() -> None:
    family = made(fixed=("up",))
    assert "up.width" not in family.space.index
    assert ("up", "is listed in `fixed`") in {(f.layer, f.reason) for f in family.fixed}


def test_an_operator_without_rule_keeps_what_it_reads() -> None:
    class Sorted(Small):
        def forward(self, x: Tensor) -> Tensor:
            return self.out(torch.relu(self.down(self.up(x).sort(-1).values)))

    family = space_from_model(Sorted(), data(4))
    assert any(f.layer == "up" and "sort" in f.reason and "no rule" in f.reason for f in family.fixed)
    assert list(family.space.index) == ["down.width"]


def test_nothing_to_shrink() -> None:
    with pytest.raises(ValueError, match=r"must have something that can shrink, but everything is fixed .*an output"):
        space_from_model(nn.Sequential(nn.Linear(6, 3)), data(4))


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class FixedBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x.view(4, 6))


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.one, self.two = conv(3, 8), nn.Conv2d(8, 2, 1), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.body(x)
        return {"one": self.one(y), "two": self.two(y)}


def test_models_that_cannot_be_captured() -> None:
    with pytest.raises(CaptureError, match=r"exportable by torch.export, but Branching is not: .*docs/own_model.md"):
        space_from_model(Branching(), data(4))
    with pytest.raises(CaptureError, match=r"the batch .*must stay open, but"):
        space_from_model(FixedBatch(), data(4))
    with pytest.raises(CaptureError, match="must be tensors with a leading batch dimension"):
        space_from_model(small(), ())
    with pytest.raises(CaptureError, match=r"must have one batch size, but got \[4, 5\]"):
        space_from_model(small(), (data(4), data(5)))


def test_one_of_several_outputs() -> None:
    x = torch.randn(2, 3, 4, 4)
    net = Supernet(space_from_model(Two(), x, output="two"))
    subnet = net.extract(net.space.smallest())
    assert subnet(x).shape == (2, 3, 4, 4) and not hasattr(subnet, "one")
    with pytest.raises(CaptureError, match=r"output must be one of \['one', 'two'\], but got 'three'"):
        space_from_model(Two(), x, output="three")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratios": (0.0,)}, r"ratios must be in \(0, 1\], but got \[0.0\]"),
        ({"ranks": (2.0,)}, r"ranks must be in \(0, 1\], but got \[2.0\]"),
        ({"multiple": 0}, "multiple must be at least 1, but got 0"),
        ({"importance": "luck"}, "importance must be one of .*, but got 'luck'"),
        ({"repair": "glue"}, "repair must be one of .*, but got 'glue'"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpaceOptions(**options)
