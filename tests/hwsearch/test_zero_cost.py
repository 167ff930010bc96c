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


def normalised_net() -> tuple[nn.Sequential, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A net with BatchNorm, its input (6, 2) and, by numpy, hidden values, their deviations and outputs."""
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Linear(2, 5, bias=False), nn.BatchNorm1d(5, eps=1e-12), nn.ReLU(), nn.Linear(5, 3, bias=False)
    )
    x = np.random.default_rng(0).standard_normal((6, 2))
    net.double()
    before = x @ net[0].weight.detach().numpy().T
    std = before.std(axis=0)
    hidden = (before - before.mean(axis=0)) / std
    return net, x, hidden, std, np.maximum(hidden, 0) @ net[3].weight.detach().numpy().T


def test_naswot_of_a_net_with_batchnorm() -> None:
    """Mellor et al. 2021, eq. 2: K[i, j] = units - Hamming distance of the codes, after normalising by the batch."""
    net, x, hidden, _, _ = normalised_net()
    code = hidden > 0
    kernel = 5 - (code[:, None] != code[None]).sum(axis=2)
    expected = np.linalg.slogdet(kernel + 1e-3 * np.eye(6))[1]
    assert naswot(net, torch.from_numpy(x)) == pytest.approx(expected, rel=1e-6)


def test_jacob_cov_of_a_net_with_batchnorm() -> None:
    """Mellor et al. 2020, eq. 3, with Jacobians by finite differences of the summed logits of the whole batch."""
    net, x, _, _, _ = normalised_net()

    def summed(x: np.ndarray) -> float:
        before = x @ net[0].weight.detach().numpy().T
        hidden = (before - before.mean(axis=0)) / before.std(axis=0)
        return float((np.maximum(hidden, 0) @ net[3].weight.detach().numpy().T).sum())

    jacobian = np.empty((6, 2))
    for i, j in np.ndindex(6, 2):
        step = np.zeros((6, 2))
        step[i, j] = 1e-6
        jacobian[i, j] = (summed(x + step) - summed(x - step)) / 2e-6
    values = np.linalg.eigvalsh(np.corrcoef(jacobian))
    values = np.maximum(values, 0) + 1e-5
    expected = -np.sum(np.log(values) + 1 / values)
    assert jacob_cov(net, torch.from_numpy(x)) == pytest.approx(expected, rel=1e-3)


def test_gradient_norm_of_a_net_with_batchnorm() -> None:
    """Abdelfattah et al. 2021, section 3.1; the last layer's part is (softmax - targets)' hidden / batch by hand."""
    net, x, hidden, _, logits = normalised_net()
    targets = np.array([0, 1, 2, 0, 1, 2])
    share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    share[np.arange(6), targets] -= 1
    last = share.T @ np.maximum(hidden, 0) / 6
    for part in net[:3].parameters():
        part.requires_grad_(False)  # the score is of all weights, whatever was learned

    def loss() -> float:
        before = x @ net[0].weight.detach().numpy().T
        hidden = (before - before.mean(axis=0)) / before.std(axis=0)
        hidden = hidden * net[1].weight.detach().numpy() + net[1].bias.detach().numpy()
        out = np.maximum(hidden, 0) @ net[3].weight.detach().numpy().T
        return float(np.mean(np.log(np.exp(out).sum(axis=1)) - out[np.arange(6), targets]))

    squares = float((last**2).sum())
    for weights in (net[0].weight, net[1].weight, net[1].bias):
        flat = weights.detach().view(-1)
        for i in range(len(flat)):
            kept = float(flat[i])
            ends = []
            for step in (1e-6, -1e-6):
                flat[i] = kept + step
                ends.append(loss())
            flat[i] = kept
            squares += ((ends[0] - ends[1]) / 2e-6) ** 2
    value = gradient_norm(net, torch.from_numpy(x), targets=torch.from_numpy(targets))
    assert value == pytest.approx(np.sqrt(squares), rel=1e-5)


def test_synflow_with_running_statistics_and_beyond_single_precision() -> None:
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1, eps=0.0), nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        net[0].weight.fill_(-3.0)
        net[2].weight.fill_(2.0)
        net[1].weight.fill_(1.0)
        net[1].running_mean.fill_(-1.0)
        net[1].running_var.fill_(4.0)
    # R = 2 * (3 - 1) / 2 = 2; w dR/dw is 3 of the first layer, 2 of the second, 2 of BatchNorm's scale, 0 of its shift.
    assert synflow(net, torch.zeros(1, 1)) == pytest.approx(np.log1p(7.0))
    deep = nn.Sequential(*[nn.Linear(1, 1, bias=False) for _ in range(50)])
    with torch.no_grad():
        for layer in deep:
            layer.weight.fill_(-10.0)
    assert synflow(deep, torch.zeros(1, 1)) == pytest.approx(np.log(50) + 50 * np.log(10))  # 10^50 is no float32


def test_all_at_once_are_each_alone() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Hardswish(), nn.Flatten(), nn.Linear(144, 3))
    x, targets = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
    together = scores(net, x, targets=targets)
    assert tuple(together) == SCORES
    for name in SCORES:
        assert scores(net, x, targets=targets, only=[name]) == {name: pytest.approx(together[name], rel=1e-5)}
    alone = (synflow(net, x), jacob_cov(net, x), gradient_norm(net, x, targets=targets), naswot(net, x))
    assert alone == pytest.approx(tuple(together.values()), rel=1e-5)


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
    with pytest.raises(ValueError, match=r"scores must be out of synflow, .*, naswot, but got 'x'"):
        scores(nn.Linear(2, 2), torch.zeros(2, 2), targets=torch.zeros(2, dtype=torch.long), only=["x"])
    with pytest.raises(ValueError, match="inputs must be at least 2, one per target, but got 1 and 1"):
        scores(nn.Linear(2, 2), torch.zeros(1, 2), targets=torch.zeros(1, dtype=torch.long))
