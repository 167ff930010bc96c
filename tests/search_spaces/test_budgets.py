"""Budgets and criteria against closed forms and brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.budgets import (
    erdos_renyi_kernel,
    global_masks,
    keep_counts,
    lamp_scores,
    layerwise_masks,
    uniform,
)
from search_spaces.criteria import first_order, group_normalised, magnitude, random_scores, wanda
from search_spaces.pattern import row_mask, top_mask

SHAPES = {"a": (16, 3, 3, 3), "b": (64, 16, 1, 1), "c": (128, 64, 3, 3), "d": (10, 128)}


def size(shapes):
    return sum(int(np.prod(s)) for s in shapes.values())


@settings(max_examples=40, deadline=None)
@given(
    density=st.floats(0.02, 1.0),
    sides=st.lists(st.tuples(st.integers(2, 40), st.integers(2, 40), st.sampled_from([1, 3])), min_size=1, max_size=6),
)
def test_erk_reaches_the_density_with_caps(density, sides):
    shapes = {str(i): (o, c) if k == 1 else (o, c, k, k) for i, (o, c, k) in enumerate(sides)}
    if round(density * size(shapes)) < len(shapes):
        return
    densities = erdos_renyi_kernel(shapes, density)
    assert all(0 < d <= 1 for d in densities.values())
    assert sum(d * np.prod(shapes[n]) for n, d in densities.items()) == pytest.approx(density * size(shapes))
    free = {n: d * np.prod(shapes[n]) / sum(shapes[n]) for n, d in densities.items() if d < 1}
    assert np.ptp(list(free.values())) < 1e-6 * (1 + max(free.values())) if free else True


def test_erk_without_caps_is_the_formula():
    densities = erdos_renyi_kernel({"a": (10, 20), "b": (40, 50, 3, 3)}, 0.02)
    ratio = ((10 + 20) / 200) / ((40 + 50 + 3 + 3) / 18000)
    assert densities["a"] / densities["b"] == pytest.approx(ratio)


def test_uniform_and_bounds():
    assert uniform(SHAPES, 0.3) == dict.fromkeys(SHAPES, 0.3)
    for bad in (0.0, 1.5):
        with pytest.raises(ValueError, match=r"density must be in \(0, 1\], but got"):
            erdos_renyi_kernel(SHAPES, bad)
    with pytest.raises(
        ValueError, match=r"a budget must leave at least one weight to each of 4 layers, but density 1e-05"
    ):
        uniform(SHAPES, 1e-5)


@settings(max_examples=40, deadline=None)
@given(density=st.floats(0.001, 1.0), seed=st.integers(0, 99))
def test_counts_sum_to_the_budget(density, seed):
    rng = np.random.default_rng(seed)
    shapes = {str(i): (int(rng.integers(1, 30)), int(rng.integers(1, 30))) for i in range(5)}
    if round(density * size(shapes)) < len(shapes):
        return
    for budget in (uniform, erdos_renyi_kernel):
        counts = keep_counts(shapes, budget(shapes, density))
        assert sum(counts.values()) == round(density * size(shapes))
        assert all(1 <= counts[n] <= np.prod(shapes[n]) for n in shapes)


def test_global_masks_keep_the_best_of_all_layers_and_one_of_each():
    scores = {"a": torch.tensor([5.0, 4.0, 3.0, 2.0]), "b": torch.tensor([0.2, 0.1])}
    masks = global_masks(scores, 0.5)
    assert masks["a"].tolist() == [True, True, False, False]
    assert masks["b"].tolist() == [True, False]
    ties = global_masks({"a": torch.ones(2), "b": torch.ones(2)}, 0.75)
    assert (ties["a"].tolist(), ties["b"].tolist()) == ([True, True], [True, False])


def test_lamp_is_the_formula():
    weight = torch.tensor([[3.0, -1.0], [2.0, 0.0]])
    want = torch.tensor([[9 / 9, 1 / 14], [4 / 13, 0.0]], dtype=torch.float64)
    assert torch.allclose(lamp_scores(weight), want)
    tied = lamp_scores(torch.tensor([1.0, 1.0]))
    assert tied.tolist() == [0.5, 1.0]


def test_layerwise_masks_count_exactly():
    weights = {n: torch.randn(s, generator=torch.Generator().manual_seed(1)) for n, s in SHAPES.items()}
    masks = layerwise_masks({n: magnitude(w) for n, w in weights.items()}, erdos_renyi_kernel(SHAPES, 0.1))
    assert sum(int(m.sum()) for m in masks.values()) == round(0.1 * size(SHAPES))
    for name, mask in masks.items():
        if not mask.all():
            assert weights[name][mask].abs().min() >= weights[name][~mask].abs().max()


def test_first_order_predicts_the_change_of_a_linear_loss():
    weight = torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
    slope = torch.tensor([0.5, 0.25, -1.0])
    (weight * slope).sum().backward()
    assert torch.allclose(first_order(weight, weight.grad), torch.tensor([0.5, 0.5, 3.0]))
    with pytest.raises(ValueError, match=r"the gradient must have shape \(3,\), but got \(2,\)"):
        first_order(weight, torch.zeros(2))


def test_wanda_weighs_inputs_and_compares_within_outputs():
    weight = torch.tensor([[1.0, -2.0], [10.0, 1.0]])
    scores = wanda(weight, torch.tensor([3.0, 1.0]))
    assert scores.tolist() == [[3.0, 2.0], [30.0, 1.0]]
    assert row_mask(scores, 1).tolist() == [[True, False], [True, False]]
    conv = wanda(torch.ones(2, 3, 5, 5), torch.tensor([1.0, 2.0, 3.0]))
    assert conv[0, :, 2, 2].tolist() == [1.0, 2.0, 3.0]
    with pytest.raises(ValueError, match=r"input_norms must have one value per input \(2\), but got \(3,\)"):
        wanda(weight, torch.ones(3))


def test_group_importance_is_normalised_per_member():
    small, large = torch.tensor([1.0, 2.0]), 100 * torch.tensor([[2.0, 1.0], [0.0, 0.0]])
    got = group_normalised([(small, 0), (large, 1)])
    want = (torch.tensor([1.0, 4.0]) / 2.5 + torch.tensor([4.0, 1.0]) / 2.5) / 2
    assert torch.allclose(got, want)
    assert got.mean().item() == pytest.approx(1.0)
    with pytest.raises(ValueError, match="a group must have at least one member"):
        group_normalised([])


def test_random_scores_come_from_the_generator():
    weight = torch.zeros(3, 4)
    one, same = (random_scores(weight, np.random.default_rng(5)) for _ in range(2))
    assert torch.equal(one, same) and one.shape == weight.shape and one.std() > 0


def test_masks_decide_ties_by_position():
    assert top_mask(torch.ones(2, 3), 2).tolist() == [[True, True, False], [False, False, False]]
    assert not top_mask(torch.ones(3), 0).any()
    assert row_mask(torch.ones(2, 3), 2).tolist() == [[True, True, False]] * 2
