"""BatchNorm recalibration: biased variance, averages weighted by examples, everything else left as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from search_spaces.batchnorm import recalibrate
from tests.search_spaces.nets import equal_states, small_mlp, small_mobilenet, state, supernet


def batches(*sizes: int, shape: tuple[int, ...] = (3, 5, 5)) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, *shape, generator=generator) * (i + 1) + i for i, n in enumerate(sizes)]


def test_statistics_are_example_weighted_averages_of_batch_mean_and_biased_variance() -> None:
    norm = nn.BatchNorm2d(3)
    data = batches(4, 2)
    assert recalibrate(norm, data) == 6
    dims = (0, 2, 3)
    mean = sum(len(x) * x.mean(dims) for x in data) / 6
    var = sum(len(x) * x.var(dims, correction=0) for x in data) / 6
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, var)
    pooled = torch.cat(data).var(dims, correction=0)
    assert not torch.allclose(var, pooled)  # the published rule is not the variance of the pooled data


def test_later_norms_see_batch_normalised_inputs() -> None:
    """The second norm reads what the first one normalised by its batch statistics, not by its running ones."""
    first, second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    with torch.no_grad():
        first.weight.fill_(2.0)
        first.bias.fill_(0.5)
        assert first.running_mean is not None
        first.running_mean.fill_(100.0)
    recalibrate(nn.Sequential(first, second), batches(8))
    assert second.running_mean is not None
    assert second.running_var is not None
    torch.testing.assert_close(second.running_mean, torch.full((3,), 0.5), atol=1e-5, rtol=0)
    torch.testing.assert_close(second.running_var, torch.full((3,), 4.0), atol=1e-3, rtol=0)


def test_a_single_example_of_one_pixel_is_enough() -> None:
    norm = nn.BatchNorm2d(2)
    recalibrate(norm, [torch.ones(2, 2, 1, 1)])
    assert norm.running_var is not None
    assert norm.running_var.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("training", [True, False])
def test_modes_momenta_hooks_and_weights_are_left_alone(training: bool) -> None:
    net = supernet(small_mobilenet())
    subnet = net.extract(net.space.largest()).train(training)
    subnet.get_submodule("head").train(not training)
    modes = {name: m.training for name, m in subnet.named_modules()}
    before = state(subnet)
    recalibrate(subnet, batches(4, 4, shape=(3, 9, 9)))
    after = state(subnet)
    assert {name: m.training for name, m in subnet.named_modules()} == modes
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    assert all(n.endswith(("running_mean", "running_var", "num_batches_tracked")) for n in changed)
    norms = [m for m in subnet.modules() if isinstance(m, nn.BatchNorm2d)]
    assert sum(n.endswith("running_var") for n in changed) == len(norms)
    assert all(norm.momentum == 0.1 and not norm._forward_pre_hooks for norm in norms)


def test_recalibrating_again_gives_the_same() -> None:
    net = supernet(small_mobilenet())
    subnet = net.extract(net.space.largest())
    data = batches(4, 3, shape=(3, 9, 9))
    recalibrate(subnet, data)
    once = {n: t for n, t in state(subnet).items() if "running" in n}
    recalibrate(subnet, data)
    twice = {n: t for n, t in state(subnet).items() if "running" in n}
    assert equal_states(once, twice)


def test_no_data_is_an_error_that_changes_nothing() -> None:
    net = supernet(small_mobilenet())
    subnet = net.extract(net.space.smallest()).train()
    before = state(subnet)
    with pytest.raises(ValueError, match="BatchNorm recalibration must get at least one batch, but got none"):
        recalibrate(subnet, [])
    assert equal_states(before, state(subnet))
    assert all(m.training for m in subnet.modules())


def test_a_failure_in_the_middle_restores_the_modes() -> None:
    norm = nn.BatchNorm2d(3).train()
    with pytest.raises(RuntimeError):
        recalibrate(norm, [torch.randn(2, 4, 5, 5)])
    assert norm.training
    assert norm.momentum == 0.1
    assert not norm._forward_pre_hooks


def test_modules_without_batchnorm_are_not_run() -> None:
    net = supernet(small_mlp())

    def explode():
        raise AssertionError("must not be read")
        yield

    assert recalibrate(net.extract(net.space.largest()), explode()) == 0
