"""Least squares, sensitivities and removal orders against what they must be by definition."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from search_spaces.from_model import SpaceOptions, space_from_model
from search_spaces.from_model.activations import ROWS, Kept, chosen, sensitivities
from search_spaces.from_model.importance import importance
from search_spaces.from_model.least_squares import RIDGE, solve


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_a_layer_that_lacks_a_linear_map_gets_it() -> None:
    x, right, shift = numbers(400, 12), numbers(5, 12, seed=1), numbers(5, seed=2)
    delta, offset = solve(x, x @ right.T + shift, weights=torch.ones(400), bias=True)
    torch.testing.assert_close(delta, right, rtol=5 * RIDGE, atol=5 * RIDGE)
    torch.testing.assert_close(offset, shift, rtol=5 * RIDGE, atol=5 * RIDGE)


def test_rows_of_weight_zero_are_ignored() -> None:
    x, lack, weights = numbers(100, 6), numbers(100, 3, seed=1), torch.ones(100)
    weights[50:] = 0
    all_, half = solve(x, lack, weights=weights, bias=True), solve(x[:50], lack[:50], weights=weights[:50], bias=True)
    for mine, theirs in zip(all_, half, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_kept_entries_are_a_regression_of_their_own_for_every_output() -> None:
    x, lack = numbers(300, 10) @ numbers(10, 10, seed=5), numbers(300, 4, seed=1)
    kept = torch.rand(4, 10, generator=torch.Generator().manual_seed(2)) < 0.5
    delta, _ = solve(x, lack, weights=torch.ones(300), bias=False, kept=kept)
    assert (delta[~kept] == 0).all()
    gram = x.double().T @ x.double()
    ridge = RIDGE * gram.diagonal().mean() * torch.eye(10, dtype=torch.float64)
    for row in range(4):
        at = kept[row].nonzero().flatten()
        exact = torch.linalg.solve((gram + ridge)[at][:, at], x.double()[:, at].T @ lack[:, row].double())
        torch.testing.assert_close(delta[row, at], exact.float(), rtol=1e-2, atol=1e-3)


class Masked(nn.Module):
    """Positions whose first number is negative never reach the output."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return (self.down(torch.relu(self.up(x))) * (x[..., :1] > 0)).sum(1)


def test_rows_that_do_not_reach_the_output_have_no_weight() -> None:
    x = numbers(20, 5, 4)
    family = space_from_model(Masked(), x[:2])
    seen = (x[..., 0] > 0).flatten()
    for weights in sensitivities(family, [(x[:8],), (x[8:],)]).values():
        assert weights.shape == (100,)
        assert (weights[~seen] == 0).all() and (weights[seen] > 0).all()


def test_the_rows_that_are_kept_are_always_the_same() -> None:
    few, many = torch.tensor([2, 3, 7]), torch.arange(1, 6 * ROWS, 2)
    assert torch.equal(chosen(few), few)
    some = chosen(many)
    assert len(some) == ROWS and torch.equal(some, chosen(many)) and bool((some.diff() > 0).all())
    assert bool((some % 2 == 1).all())


def test_rows_that_matter_to_no_layer_take_no_room() -> None:
    """Half of the rows are padding: as many of the others are kept as without it, the same ones of every value."""
    n = 2 * ROWS
    real, last = torch.arange(n) % 2 == 0, torch.arange(n) == 1
    kept = Kept({"first": real.float(), "second": (real | last).float(), "other": torch.ones(6)})
    values = torch.arange(n).float()[:, None]
    rows = kept.of(values)[:, 0]
    assert len(rows) == ROWS and float((rows % 2 == 0).float().mean()) > 0.999
    assert torch.equal(kept.of(values * 2)[:, 0], rows * 2)
    assert len(kept.of(values[:6])) == 6
    assert len(kept.of(values[:9])) == 9  # of which no layer says anything
    layer = nn.Conv2d(1, 3, 1)
    out = numbers(1, 3, 2, 3)
    assert torch.equal(kept.out(out, of=layer), out[0].flatten(1).T)


def test_surgery_removes_a_copy_first_and_magnitude_does_not() -> None:
    """Channel 1 does what channel 0 does, and both are large: one of them costs nothing if the other takes over."""
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        model[0].weight.copy_(numbers(8, 6))
        model[0].bias.zero_()
        model[2].weight.copy_(numbers(3, 8, seed=2).sign())  # none is free because nothing reads it
        model[0].weight[0] *= 3
        model[0].weight[1], model[0].bias[1] = model[0].weight[0], model[0].bias[0]
    batches = [(numbers(300, 6, seed=3),)]
    options = SpaceOptions(ratios=(0.25,))
    family = space_from_model(model, batches[0][0][:2], options=options, calibration=batches)
    group = family.groups[0]
    label = family.state.parameters["0.weight"][0]
    assert label is not None
    pair = set(family.units.of[label[:2]].tolist())
    first = {name: int(group.ordered(importance(family, name, batches)).units[-1]) for name in ("obs", "magnitude")}
    assert first["obs"] in pair and first["magnitude"] not in pair
