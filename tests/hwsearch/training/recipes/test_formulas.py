"""The recipes' formulas against closed forms, brute force and numerical minimisers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from hwsearch.training.distillation import (
    Distillation,
    alignment_loss,
    attention_loss,
    attention_map,
    linear_cka,
)
from hwsearch.training.recipes.activating import activating_scores
from hwsearch.training.recipes.base import straight_through
from hwsearch.training.recipes.compander import compand, expand
from hwsearch.training.recipes.dynamic import drop_fraction, moved_mask
from hwsearch.training.recipes.envelope import envelope, prox_scale, shares
from hwsearch.training.recipes.gradual import cubic_sparsity
from hwsearch.training.recipes.jackpots import limited_change
from hwsearch.training.recipes.masking import budget_masks
from hwsearch.training.recipes.nested import prefix_probabilities
from hwsearch.training.recipes.trained_rank import nuclear_subgradient, truncated
from search_spaces.budgets import erdos_renyi_kernel


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_cubic_schedule_has_its_values():
    assert cubic_sparsity(0.0, 0.1, 0.9) == pytest.approx(0.1)
    assert cubic_sparsity(0.5, 0.0, 0.8) == pytest.approx(0.8 - 0.8 / 8)
    assert cubic_sparsity(0.5, 0.2, 0.8) == pytest.approx(0.8 - 0.6 / 8)
    assert cubic_sparsity(1.0, 0.0, 0.8) == pytest.approx(0.8)
    assert cubic_sparsity(-1.0, 0.3, 0.8) == pytest.approx(0.3)
    assert cubic_sparsity(2.0, 0.3, 0.8) == pytest.approx(0.8)


def test_the_drop_fraction_is_half_a_cosine():
    assert drop_fraction(0.0, 0.3) == pytest.approx(0.3)
    assert drop_fraction(1 / 3, 0.4) == pytest.approx(0.3)  # (1 + cos 60) / 2 = 3/4
    assert drop_fraction(1.0, 0.3) == pytest.approx(0.0)


def test_rigl_moves_the_support_by_the_book():
    weight = torch.tensor([5.0, 1.0, 4.0, 2.0, 0.0, 0.0, 0.0, 0.0])
    mask = weight != 0
    growth = torch.tensor([9.0, 0.5, 9.0, 9.0, 1.0, 3.0, 2.0, 0.0])
    got = moved_mask(weight, mask, growth, 0.5)
    # Drops 1 and 2 (positions 1, 3); of positions 1, 3, 4, ... the largest growth is at 3 (again) and 5.
    assert got.nonzero().squeeze(1).tolist() == [0, 2, 3, 5]
    assert moved_mask(weight, mask, growth, 0.2).equal(mask)  # floor(0.8) = 0 moves


@settings(max_examples=30, deadline=None)
@given(n=st.integers(4, 40), active=st.floats(0.1, 0.9), fraction=st.floats(0.0, 1.0), seed=st.integers(0, 99))
def test_the_number_of_active_weights_is_constant(n, active, fraction, seed):
    weight, growth = randn(n, seed=seed), randn(n, seed=seed + 1).abs()
    mask = torch.zeros(n, dtype=torch.bool)
    mask[torch.randperm(n, generator=torch.Generator().manual_seed(seed))[: max(1, int(active * n))]] = True
    got = moved_mask(weight, mask, growth, fraction)
    assert got.sum() == mask.sum()
    assert (mask & ~got).sum() <= math.floor(fraction * int(mask.sum()))


def prox_objective(u, x, step):
    # For fixed u the minimiser is z = x u / (step + u), with value step / 2 sum x^2 / (step + u).
    return 0.5 * step * float((x**2 / (step + u)).sum())


@settings(max_examples=25, deadline=None)
@given(x=st.lists(st.floats(0.05, 5.0), min_size=2, max_size=7), level=st.integers(1, 6), step=st.floats(0.05, 2.0))
def test_the_prox_agrees_with_a_numerical_minimiser(x, level, step):
    x, level = np.array(x), min(level, len(x))
    u = shares(x, level, step)
    assert u.sum() == pytest.approx(level, abs=1e-9) and (u >= 0).all() and (u <= 1).all()
    found = minimize(
        lambda v: prox_objective(v, x, step),
        np.full(len(x), level / len(x)),
        bounds=[(0, 1)] * len(x),
        constraints={"type": "ineq", "fun": lambda v: level - v.sum()},
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 300},
    )
    assert prox_objective(u, x, step) <= found.fun * (1 + 1e-6)
    # The whole problem in z: no random point nearby is better.
    z = x * prox_scale(x, level, step)

    def whole(point):
        return 0.5 * ((point - x) ** 2).sum() + step * envelope(point, level)

    rng = np.random.default_rng(0)
    best = whole(z)
    assert all(whole(z + 1e-3 * rng.standard_normal(len(x))) >= best - 1e-9 for _ in range(20))


def test_the_envelope_in_closed_form():
    # Level 1 of two groups: u_j proportional to |x_j|, value (|a| + |b|)^2 / 2; level J: half the squared norm.
    assert envelope(np.array([3.0, 1.0]), 1) == pytest.approx(8.0)
    assert envelope(np.array([3.0, 1.0]), 2) == pytest.approx(5.0)
    # It equals half the squared norm for vectors that are sparse enough already.
    assert envelope(np.array([3.0, 0.0, 1.0]), 2) == pytest.approx(5.0)


def test_shares_in_closed_form():
    assert shares(np.array([1.0, 1.0, 1.0, 1.0]), 2, 0.3).tolist() == pytest.approx([0.5] * 4)
    assert shares(np.array([2.0, 0.0, 1.0]), 2, 0.1).tolist() == [1.0, 0.0, 1.0]
    assert shares(np.array([1.0, 0.2]), 1, 0.1).tolist() == pytest.approx([0.9, 0.1])  # eta = 1
    assert prox_scale(np.array([1.0, 0.02]), 1, 0.1).tolist() == pytest.approx([1 / 1.1, 0.0])
    for level in (0, 3):
        with pytest.raises(ValueError, match="level must be between 1 and 2 groups, but got"):
            shares(np.ones(2), level, 0.1)
    with pytest.raises(ValueError, match=r"step must be at least 0, but got -1"):
        shares(np.ones(2), 1, -1.0)


def test_many_equal_and_extreme_norms_are_shared_exactly():
    rng = np.random.default_rng(3)
    for x in (np.ones(1000), rng.lognormal(0, 4, 1000), np.r_[np.zeros(10), np.full(5, 1e-9), np.full(5, 1e9)]):
        for level in (1, 7, 300):
            u = shares(x, min(level, len(x)), 0.01)
            want = min(level, int((x > 0).sum()))
            assert u.sum() == pytest.approx(want, rel=1e-6)


def test_limited_change_swaps_at_most_so_many():
    mask = torch.tensor([True, True, True, False, False, False])
    scores = torch.tensor([0.1, 3.0, 0.2, 2.0, 1.0, 4.0])
    assert limited_change(mask, scores, 10).tolist() == [False, True, False, True, False, True]
    assert limited_change(mask, scores, 1).tolist() == [False, True, True, False, False, True]
    assert limited_change(mask, scores, 0).equal(mask)


def test_prefix_probabilities_are_geometric_or_uniform():
    assert prefix_probabilities(4, 1.0).tolist() == [0.25] * 4
    p = prefix_probabilities(5, 0.5, smallest=2)
    assert p.sum() == pytest.approx(1.0) and (p[1:] / p[:-1]).tolist() == pytest.approx([0.5] * 3)
    with pytest.raises(ValueError, match=r"decay must be in \(0, 1\], but got 0.0"):
        prefix_probabilities(3, 0.0)
    with pytest.raises(ValueError, match="smallest must be between 1 and 3 channels, but got 4"):
        prefix_probabilities(3, 1.0, 4)


def test_companding_saturates_keeps_zero_and_inverts():
    v = 0.6 * torch.arange(-50.0, 51.0, dtype=torch.float64)
    w = compand(v, 0.5, 1.0)
    assert w.abs().max() < 0.5 * math.pi / 2 and w[50] == 0.0 and (w.diff() > 0).all()
    assert torch.allclose(expand(w, 0.5, 1.0), v)
    x = torch.zeros(1, requires_grad=True)
    compand(x, 0.3, 2.0).sum().backward()
    assert x.grad.item() == pytest.approx(2.0)


def test_truncation_is_the_best_low_rank_approximation():
    weight = randn(6, 4, 3, 3)
    values = torch.linalg.svdvals(weight.reshape(6, -1))
    for rank in (1, 3, 6):
        error = (truncated(weight, rank) - weight).square().sum()
        assert error.item() == pytest.approx(values[rank:].square().sum().item(), abs=1e-4)
        assert torch.linalg.matrix_rank(truncated(weight, rank).reshape(6, -1), atol=1e-4) == rank


def test_the_nuclear_subgradient_is_the_gradient_where_there_is_one():
    weight = randn(4, 6).requires_grad_()
    torch.linalg.matrix_norm(weight, "nuc").backward()
    assert torch.allclose(nuclear_subgradient(weight), weight.grad, atol=1e-5)
    low = truncated(weight.detach(), 2)
    assert torch.linalg.matrix_rank(nuclear_subgradient(low), atol=1e-3) == 2
    assert not nuclear_subgradient(torch.zeros(2, 3)).any()


def test_activating_scores_lower_negative_weights_into_neurons_that_are_off():
    weight = torch.tensor([[1.0, -1.0], [2.0, -2.0]])
    got = activating_scores(weight.abs(), weight, torch.tensor([1.0, 0.25]), 0.5)
    assert got.tolist() == [[1.0, 0.5], [2.0, 2.0 * (1 - 0.125)]]


def test_straight_through_has_the_value_of_one_and_the_gradient_of_the_other():
    weight = randn(5).requires_grad_()
    out = straight_through(weight, weight.detach() > 0)
    assert torch.equal(out, weight.detach().clamp_min(0.0)) and not torch.signbit(out).any()
    (out * torch.arange(5.0)).sum().backward()
    assert weight.grad.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_budget_masks_have_exactly_the_sparsity():
    weights = {"a": randn(20, 30), "b": randn(10, 20, 3, 3, seed=1)}
    for budget in ("uniform", "erk", "global", "lamp"):
        masks = budget_masks(weights, 0.8, budget=budget)
        assert sum(int(m.sum()) for m in masks.values()) == round(0.2 * 2400)
    erk = budget_masks(weights, 0.8, budget="erk", criterion="random", rng=np.random.default_rng(0))
    densities = erdos_renyi_kernel({"a": (20, 30), "b": (10, 20, 3, 3)}, 0.2)
    assert erk["a"].float().mean().item() == pytest.approx(densities["a"], abs=2e-3)
    with pytest.raises(ValueError, match="random scores must come with a generator and a budget other than lamp"):
        budget_masks(weights, 0.5, budget="lamp", criterion="random", rng=np.random.default_rng(0))


def test_cka_is_invariant_and_bounded():
    x, y = randn(20, 6).double(), randn(20, 3, 2, seed=1).double()
    rotation, _ = torch.linalg.qr(randn(6, 6, seed=2).double())
    assert linear_cka(x, x).item() == pytest.approx(1.0)
    base = linear_cka(x, y).item()
    assert 0.0 <= base < 1.0
    assert linear_cka(3.0 * x @ rotation + 5.0, y).item() == pytest.approx(base)
    a, b = x - x.mean(0), y.flatten(1) - y.flatten(1).mean(0)
    direct = (b.T @ a).norm() ** 2 / ((a.T @ a).norm() * (b.T @ b).norm())
    assert base == pytest.approx(direct.item())
    assert alignment_loss(x, x).item() == pytest.approx(0.0, abs=1e-9)


def test_attention_maps_are_normalised_energy():
    x = randn(2, 3, 4, 5)
    a = attention_map(x)
    assert a.shape == (2, 20) and torch.allclose(a.norm(dim=1), torch.ones(2))
    assert torch.allclose(a[0], (x[0] ** 2).sum(0).flatten() / (x[0] ** 2).sum(0).norm())
    assert attention_loss(x, -2.0 * x).item() == pytest.approx(0.0, abs=1e-10)
    with pytest.raises(ValueError, match=r"attention maps must have one size, but got \(4, 5\) and \(2, 2\)"):
        attention_loss(x, randn(2, 3, 2, 2))


def test_distillation_terms_are_checked_and_weighted():
    s, t = randn(4, 3), randn(4, 3, seed=1)
    one = Distillation(weight=1.0).loss((s, t), ({}, {}))
    assert Distillation(weight=2.5).loss((s, t), ({}, {})).item() == pytest.approx(2.5 * one.item())
    features = {"a": randn(4, 2, 3, 3)}, {"b": randn(4, 5, 3, 3, seed=1)}
    term = Distillation(kind="attention", layers=(("a", "b"),)).loss((s, t), features)
    assert term.item() == pytest.approx(attention_loss(features[0]["a"], features[1]["b"]).item())
    with pytest.raises(ValueError, match="must have weight >= 0 and temperature > 0"):
        Distillation(temperature=0.0)
    with pytest.raises(ValueError, match="attention distillation must name pairs of layers"):
        Distillation(kind="attention")
    with pytest.raises(ValueError, match="logits distillation must not name pairs of layers"):
        Distillation(layers=(("a", "b"),))
