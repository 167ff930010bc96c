"""Zero-cost scores: closed forms of small nets, what they order, and that the net stays as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from hwsearch.zero_cost import SCORES, gradient_norm, jacob_cov, naswot, scores, synflow


def test_synflow_of_a_linear_chain() -> None:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, -2.0], [3.0, 4.0]]))
        net[1].weight.copy_(torch.tensor([[-1.0, 2.0]]))
    # R = 1 * (1 + 2) + 2 * (3 + 4) = 17; the sum of w dR/dw over each layer is R.
    assert synflow(net, torch.zeros(5, 2)) == pytest.approx(np.log1p(2 * 17.0))
    assert net[0].weight[0, 1] == -2.0


def test_gradient_norm_by_hand() -> None:
    net = nn.Linear(1, 2)
    with torch.no_grad():
        net.weight.zero_()
        net.bias.zero_()
    # softmax = 1/2: d/d logits = (-1/2, 1/2), d/d weight = that times x = 2; norm^2 = 0.5 + 0.5 * 4.
    value = gradient_norm(net, torch.tensor([[2.0]]), targets=torch.tensor([0]))
    assert value == pytest.approx(np.sqrt(2.5))


def test_naswot_by_hand() -> None:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU())
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(2))
    x = torch.tensor([[1.0, 1.0], [1.0, -1.0]])  # codes 11 and 10: agree on one unit of two
    assert naswot(net, x) == pytest.approx(np.log(2.001**2 - 1))
    bare = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        bare.weight.copy_(torch.eye(2))
    assert naswot(bare, x) == pytest.approx(naswot(net, x))


def test_jacob_cov_by_hand() -> None:
    net = nn.Linear(3, 1)  # the Jacobian is the same for every input: correlation 1, eigenvalues 0 and 2
    small, large = 1e-5, 2 + 1e-5
    expected = -(np.log(small) + 1 / small + np.log(large) + 1 / large)
    assert jacob_cov(net, torch.randn(2, 3)) == pytest.approx(expected, rel=1e-3)


def test_wider_nets_score_higher() -> None:
    torch.manual_seed(0)
    x = torch.randn(12, 6)

    def net(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3))

    for score in (naswot, jacob_cov, synflow):
        assert score(net(64), x) > score(net(4), x)


def test_the_net_stays_as_it_was() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    net.train()
    net[4].weight.requires_grad_(False)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    answer = scores(net, torch.randn(4, 1, 8, 8), targets=torch.tensor([0, 1, 2, 0]))
    assert set(answer) == set(SCORES) and all(np.isfinite(v) for v in answer.values())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert net.training and all(p.grad is None for p in net.parameters())
    assert not net[4].weight.requires_grad and net[0].weight.requires_grad
    assert not net[2]._forward_pre_hooks


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="inputs must be at least 2, one per target, but got 1 and 1"):
        scores(nn.Linear(2, 2), torch.zeros(1, 2), targets=torch.zeros(1, dtype=torch.long))
