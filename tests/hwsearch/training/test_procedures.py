"""Soups, fine-tuning and verification."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from hwsearch.data.synthetic import SyntheticSpec
from hwsearch.evaluation import correct_answers, evaluate
from hwsearch.training.config import TrainingConfig
from hwsearch.training.finetuning import finetune
from hwsearch.training.network_training import train_network
from hwsearch.training.recipes.base import prunable, sparsity_of
from hwsearch.training.soups import average, prune_and_soup, round_sparsities
from hwsearch.training.verification import fresh, paired_difference, random_erk_masks, verify
from search_spaces.mlp import MLP
from search_spaces.supernet import SparsityGenes, Supernet

DATA = SyntheticSpec(shape=(1, 6, 6), n_classes=3, n=150, noise=0.7).open()
CONFIG = TrainingConfig(epochs=3, batch_size=16, learning_rate=5e-3)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3))


def test_rounds_prune_the_same_share_each():
    assert round_sparsities(0.875, 3) == pytest.approx((0.5, 0.75, 0.875))
    with pytest.raises(ValueError, match="rounds must be at least 1, but got 0"):
        round_sparsities(0.5, 0)


def test_an_average_is_the_mean_and_keeps_counters():
    a, b = network(0), network(1)
    mean = average([a, b])
    assert torch.allclose(mean["1.weight"], (a[1].weight + b[1].weight) / 2)
    assert mean["2.num_batches_tracked"].dtype == torch.int64
    with pytest.raises(ValueError, match="a soup must have at least one member, but got none"):
        average([])


def test_soups_keep_the_mask_and_reach_the_sparsity():
    model = network()
    train_network(model, DATA, CONFIG)
    seen = []
    masks, rounds = prune_and_soup(
        model,
        DATA,
        CONFIG,
        sparsity=0.8,
        rounds=2,
        members=3,
        decays=(0.0, 0.1),
        keep_dense=["4"],
        progress=seen.append,
    )
    assert [p.step for p in seen] == list(range(1, seen[0].n_steps + 1)) and seen[-1].eta_seconds == 0.0
    assert [r.sparsity for r in rounds] == pytest.approx(round_sparsities(0.8, 2))
    assert all(len(set(r.final_losses)) == 3 for r in rounds)  # the members differ
    assert torch.equal(model[1].weight != 0, masks["1.weight"])
    assert sparsity_of(prunable(model, ["4"])) == pytest.approx(0.8, abs=1e-3)
    assert evaluate(model, DATA.train).accuracy > 0.8
    with pytest.raises(ValueError, match="members must be at least 1, but got 0"):
        prune_and_soup(model, DATA, CONFIG, sparsity=0.5, members=0)


def found_net():
    net = Supernet(
        MLP(input_shape=(1, 6, 6), n_classes=3, hidden=((16, 32),)), sparsity=SparsityGenes(("dense", "1:4"))
    )
    arch = net.space.architecture({"layer1.nodes": 16, "layer1.sparsity": "1:4"})
    return net.extract(arch), net.masks(arch), net.extract(net.space.largest())


def test_fine_tuning_keeps_zeros_and_leaves_the_given_net_alone():
    module, masks, teacher = found_net()
    before = {n: t.clone() for n, t in module.state_dict().items()}
    tuned, result = finetune(module, DATA, CONFIG.model_copy(update={"epochs": 6}), masks=masks, teacher=teacher)
    assert all(torch.equal(t, before[n]) for n, t in module.state_dict().items())
    assert torch.equal(tuned.layer1.weight != 0, masks["layer1.weight"])
    assert result.epoch_losses[-1] < result.epoch_losses[0]
    alone, _ = finetune(module, DATA, CONFIG, masks={})
    assert torch.count_nonzero(alone.layer1.weight) > masks["layer1.weight"].sum()


def test_answers_are_those_of_the_score():
    module = network()
    right = correct_answers(module, DATA.holdout, batch_size=7)
    assert right.mean() == pytest.approx(evaluate(module, DATA.holdout).accuracy)
    assert module.training


def test_paired_differences_in_closed_form():
    first = np.array([1, 1, 1, 0], bool)
    other = np.array([1, 0, 1, 0], bool)
    got = paired_difference(first, [other])
    half = 1.959964 * math.sqrt(0.25 / 4)  # d = (0, 1, 0, 0): variance 1/4
    assert (got.mean, got.low, got.high) == pytest.approx((0.25, 0.25 - half, 0.25 + half))
    worse = np.array([0, 0, 0, 0], bool)
    d = first.astype(float) - np.mean([other, worse], axis=0)
    half = 1.959964 * math.sqrt(d.var(ddof=1) / 4 + np.var([0.5, 0.0], ddof=1) / 2)
    got = paired_difference(first, [other, worse])
    assert (got.mean, got.high - got.mean) == pytest.approx((0.5, half))
    with pytest.raises(ValueError, match="paired answers must be of the same examples"):
        paired_difference(first, [np.ones(3, bool)])


def test_fresh_weights_depend_on_the_seed_only():
    module = network()
    one, same, other = fresh(module, 3), fresh(network(9), 3), fresh(module, 4)
    assert torch.equal(one[1].weight, same[1].weight) and not torch.equal(one[1].weight, other[1].weight)
    assert not torch.equal(one[1].weight, module[1].weight)

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

    with pytest.raises(ValueError, match="a module to be retrained must have reset_parameters, but '1' has none"):
        fresh(nn.Sequential(nn.Linear(1, 1), Own()), 0)


def test_random_masks_keep_as_many_weights():
    masks = {"a": torch.rand(20, 30) < 0.3, "b": torch.rand(10, 20) < 0.1}
    random = random_erk_masks(masks, 0)
    assert sum(int(m.sum()) for m in random.values()) == sum(int(m.sum()) for m in masks.values())
    assert not torch.equal(random["a"], random_erk_masks(masks, 1)["a"])


def test_verification_compares_with_every_control():
    module, masks, _ = found_net()
    tuned, _ = finetune(module, DATA, CONFIG, masks=masks)
    calls = []
    report = verify(
        tuned,
        DATA,
        CONFIG,
        masks=masks,
        answers=lambda m: correct_answers(m, DATA.holdout),
        seeds=(0, 1),
        progress=lambda done, n: calls.append((done, n)),
    )
    assert [c.name for c in report.controls] == ["scratch", "scratch_compute", "random_mask"]
    assert calls == [(i, 6) for i in range(1, 7)]
    assert report.sparsity == pytest.approx(0.75)
    for control in report.controls:
        assert len(control.accuracies) == 2
        assert control.difference.mean == pytest.approx(report.accuracy - np.mean(control.accuracies))
        assert control.difference.low <= control.difference.mean <= control.difference.high
    dense = verify(tuned, DATA, CONFIG, masks={}, answers=lambda m: correct_answers(m, DATA.holdout), seeds=(0,))
    assert [c.name for c in dense.controls] == ["scratch", "scratch_compute"] and dense.sparsity == 0.0
    with pytest.raises(ValueError, match="seeds must list at least one seed, but got none"):
        verify(tuned, DATA, CONFIG, masks={}, answers=lambda m: np.ones(1, bool), seeds=())
    with pytest.raises(ValueError, match=r"compute_factor must be at least 1, but got 0.5"):
        verify(tuned, DATA, CONFIG, masks={}, answers=lambda m: np.ones(1, bool), compute_factor=0.5)
