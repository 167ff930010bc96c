"""Schedules of a super-network: what is released when, what attentive sampling prefers, where gradients go."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hwsearch.data.synthetic import SyntheticSpec
from hwsearch.training.config import TrainingConfig
from hwsearch.training.sampling import attentive_rows, held_back, kind_of, nonzeros_ranking, released
from hwsearch.training.sandwich import SandwichLearner, SinglePathLearner, subnet_logits
from hwsearch.training.supernet_training import train
from search_spaces.mlp import MLP
from search_spaces.mobilenet import MobileNet, Stage
from search_spaces.supernet import SparsityGenes, Supernet


def supernet():
    stages = (Stage(width=(8, 16), depth=(1, 2), kernel=(3, 5), expand=(1, 2)),)
    family = MobileNet(input_shape=(1, 8, 8), n_classes=3, stem=8, head=16, stages=stages)
    return Supernet(family, sparsity=SparsityGenes(("dense", "unstructured-0.5")))


def test_kinds_are_read_from_names():
    names = [
        "stage1.depth",
        "stage1.block2.kernel",
        "stage1.block2.expand",
        "head.sparsity",
        "stage1.rank",
        "layer1.nodes",
    ]
    assert [kind_of(n) for n in names] == ["depth", "kernel", "width", "sparsity", "rank", "width"]
    assert kind_of("resolution") == "other"


def test_kinds_are_released_one_after_another():
    phases = ("kernel", "depth", "width")
    assert [sorted(released(d, phases)) for d in (0.0, 0.24, 0.25, 0.5, 0.75, 1.0)] == [
        [], [], ["kernel"], ["depth", "kernel"], ["depth", "kernel", "width"], ["depth", "kernel", "width"],
    ]  # fmt: skip


def test_held_back_genes_are_at_their_largest_choice():
    net = supernet()
    rows = net.space.sample(60, np.random.default_rng(0))
    phases = ("kernel", "depth", "width", "sparsity")
    for free in (frozenset(), frozenset({"kernel"}), frozenset(phases)):
        out = held_back(net.space, rows, phases, free)
        assert np.array_equal(net.space.canonical(out), out)
        columns, active = net.space.columns(out), net.space.active(out)
        for i, gene in enumerate(net.space.genes):
            values = columns[gene.name][active[:, i]]
            if kind_of(gene.name) in free:
                assert len(set(values.tolist())) > 1
            else:
                want = gene.choices[0] if isinstance(gene.choices[0], str) else max(gene.choices)
                assert set(values.tolist()) == {want}
    assert np.array_equal(held_back(net.space, rows, phases, frozenset(phases)), rows)


def test_attentive_rows_are_the_best_or_worst_of_their_pools():
    net = supernet()
    rank = nonzeros_ranking(net)
    drawn = net.space.sample(24, np.random.default_rng([3, 5]))
    quality = rank(drawn).reshape(3, 8)
    for prefer, want in (("best", quality.max(1)), ("worst", quality.min(1))):
        rows = attentive_rows(net.space, 3, 5, 3, pool=8, ranking=rank, prefer=prefer)
        assert rank(rows).tolist() == want.tolist()


def test_progressive_students_begin_with_the_largest_and_end_free():
    net = supernet()
    config = TrainingConfig(schedule="progressive", phases=("kernel", "depth", "width", "sparsity"), n_random=4)
    learner = SandwichLearner(net, config, n_steps=100)
    assert learner.students(0) == []
    middle = learner.students(25)
    assert middle and all(a["stage1.depth"] == 2 and a["stage1.width"] == 16 for a in middle)
    assert {a["stage1.depth"] for step in range(90, 99) for a in learner.students(step)} == {1, 2}


def test_gradients_reach_masked_weights_only_straight_through():
    family = MLP(input_shape=(6,), n_classes=3, hidden=((8,),))
    net = Supernet(family, sparsity=SparsityGenes(("dense", "unstructured-0.5"))).train()
    arch = net.space.architecture({"layer1.nodes": 8, "layer1.sparsity": "unstructured-0.5"})
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    (mask,) = net.masks(arch).values()
    grads = {}
    for through in (False, True):
        net.zero_grad()
        out = subnet_logits(net, x, arch, through_masks=through)
        assert torch.equal(out, net(x, arch))
        out.square().sum().backward()
        grads[through] = net.full.layer1.weight.grad.clone()
    assert not grads[False][~mask].any() and grads[True][~mask].any()
    assert torch.equal(grads[False][mask], grads[True][mask])


def test_single_path_trains_one_subnet_on_the_labels():
    net = supernet().train()
    config = TrainingConfig(schedule="single_path", seed=2)
    x, y = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3
    loss = SinglePathLearner(net, config).learn(x, y, 4)
    (arch,) = net.space.architectures(net.space.sample(1, np.random.default_rng([2, 4])))
    got = {n: None if p.grad is None else p.grad.clone() for n, p in net.full.named_parameters()}
    net.zero_grad()
    want = torch.nn.functional.cross_entropy(net(x, arch), y)
    want.backward()
    assert loss == pytest.approx(want.item(), rel=1e-6)
    for name, p in net.full.named_parameters():
        assert (got[name] is None) == (p.grad is None)
        assert p.grad is None or torch.allclose(got[name], p.grad, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"schedule": "single_path"},
        {"schedule": "progressive"},
        {"schedule": "attentive", "attentive": "worst", "pool": 3},
        {"straight_through": True, "precision": "bf16", "accumulate": 2, "ema": 0.5},
    ],
    ids=lambda s: "-".join(map(str, s.values())),
)
def test_every_schedule_learns_and_is_deterministic(settings):
    data = SyntheticSpec(shape=(1, 8, 8), n_classes=3, n=120, noise=0.5).open()
    config = TrainingConfig(epochs=4, batch_size=24, n_random=1, learning_rate=1e-2, **settings)
    one, same = supernet(), supernet()
    result = train(one, data, config)
    train(same, data, config)
    assert result.epoch_losses[-1] < result.epoch_losses[0]
    assert all(torch.equal(a, b) for a, b in zip(one.full.parameters(), same.full.parameters(), strict=True))
