"""Schedule, soft labels, optimizer memory, sampling and checkpoints: closed forms and round trips."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hwsearch.training.checkpoint import CheckpointError, TrainingState, load_state, save_state
from hwsearch.training.config import TrainingConfig
from hwsearch.training.distillation import soft_cross_entropy
from hwsearch.training.optimizer import (
    load_optimizer_tensors,
    make_optimizer,
    optimizer_tensors,
    permute_optimizer,
)
from hwsearch.training.sampling import random_subnets, smallest
from hwsearch.training.schedule import rate_factor
from search_spaces.mlp import MLP
from search_spaces.ordering import reorder_channels
from search_spaces.supernet import SparsityGenes, Supernet


def test_the_rate_rises_linearly_and_falls_by_half_a_cosine():
    assert rate_factor(0.05, 0.1) == pytest.approx(0.5)
    assert rate_factor(0.1, 0.1) == pytest.approx(1.0)
    assert rate_factor(0.55, 0.1) == pytest.approx(0.5)
    assert rate_factor(0.1 + 0.9 / 3, 0.1) == pytest.approx(0.75)  # cos(60 degrees) = 1/2
    assert rate_factor(1.0, 0.1) == pytest.approx(0.0)
    assert rate_factor(1.5, 0.0) == pytest.approx(0.0)


def test_soft_cross_entropy_in_closed_form():
    student = torch.tensor([[0.0, 0.0]])
    teacher = torch.tensor([[math.log(3.0), 0.0]])
    assert soft_cross_entropy(student, teacher).item() == pytest.approx(math.log(2.0))
    # Against itself it is the entropy of (3/4, 1/4).
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert soft_cross_entropy(teacher, teacher).item() == pytest.approx(entropy)


def test_soft_labels_teach_as_the_divergence_does_and_the_teacher_does_not_learn():
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(5, 4, generator=generator, requires_grad=True)
    teacher = torch.randn(5, 4, generator=generator, requires_grad=True)
    soft_cross_entropy(student, teacher, 2.0).backward()
    kl = nn.functional.kl_div(
        torch.log_softmax(student / 2, 1), torch.softmax(teacher.detach() / 2, 1), reduction="batchmean"
    )
    assert torch.allclose(student.grad, torch.autograd.grad(kl * 4, student)[0], atol=1e-6)
    assert teacher.grad is None


def supernet(sparsity=("dense", "unstructured-0.5", "1:4")):
    family = MLP(input_shape=(1, 4, 4), n_classes=3, hidden=((8, 16), (8, 12)))
    return Supernet(family, sparsity=SparsityGenes(sparsity) if sparsity else None)


def test_the_smallest_subnet_is_the_sparsest_too():
    arch = smallest(supernet())
    assert arch.to_dict() == {
        "layer1.nodes": 8, "layer2.nodes": 8, "layer1.sparsity": "1:4", "layer2.sparsity": "1:4",
    }  # fmt: skip
    assert smallest(supernet(None)) == supernet(None).space.smallest()


def test_random_subnets_depend_on_seed_and_step_only():
    net = supernet()
    assert random_subnets(net, 3, 7, 4) == random_subnets(supernet(), 3, 7, 4)
    assert random_subnets(net, 3, 7, 4) != random_subnets(net, 3, 8, 4)
    assert random_subnets(net, 3, 7, 4) != random_subnets(net, 4, 7, 4)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_optimizer_memory_round_trip_continues_bit_equal(optimizer):
    config = TrainingConfig(optimizer=optimizer)

    def steps(model, opt, n, first=0):
        for i in range(first, first + n):
            opt.zero_grad()
            model(torch.full((2, 3, 5, 5), float(i + 1))).square().sum().backward()
            opt.step()

    def fresh():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
        return model, make_optimizer(model, config)

    model, opt = fresh()
    steps(model, opt, 3)
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    memory = {k: v.clone() for k, v in optimizer_tensors(opt, model).items()}
    steps(model, opt, 2, first=3)

    other, other_opt = fresh()
    other.load_state_dict(weights)
    load_optimizer_tensors(other_opt, other, memory)
    steps(other, other_opt, 2, first=3)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def test_norms_and_biases_do_not_decay():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    groups = make_optimizer(model, TrainingConfig(weight_decay=0.3)).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert decay[id(model[0].weight)] == 0.3
    assert {decay[id(p)] for p in (model[0].bias, model[1].weight, model[1].bias)} == {0.0}


def test_optimizer_memory_follows_reordered_channels():
    net = supernet(None)
    opt = make_optimizer(net.full, TrainingConfig())
    net.train()
    net(torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(0)), net.space.largest()).sum().backward()
    opt.step()
    weight, classifier = net.full.layer1.weight, net.full.classifier.weight
    before = opt.state[weight]["exp_avg"].clone()
    columns = opt.state[classifier]["exp_avg_sq"].clone()
    groups = net.family.channel_groups()
    applied = reorder_channels(net, groups)
    permute_optimizer(opt, net.full, groups, applied)
    assert torch.equal(opt.state[weight]["exp_avg"], before[applied["layer2.weight"]])
    assert torch.equal(opt.state[classifier]["exp_avg_sq"], columns[:, applied["classifier.weight"]])


def test_checkpoints_hold_everything(tmp_path):
    state = TrainingState("abc", 2, 9, 1.5, (0.3, 0.2), True, {"model/w": torch.arange(4.0).view(2, 2).t()})
    save_state(tmp_path / "deep" / "c.safetensors", state)
    loaded = load_state(tmp_path / "deep" / "c.safetensors")
    assert torch.equal(loaded.tensors["model/w"], state.tensors["model/w"])
    for name in ("digest", "epoch", "step", "elapsed_seconds", "epoch_losses", "finished"):
        assert getattr(loaded, name) == getattr(state, name)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["c.safetensors"]


def test_broken_checkpoints_are_one_clear_line(tmp_path):
    path = tmp_path / "c.safetensors"
    save_state(path, TrainingState("abc", tensors={"model/w": torch.zeros(100)}))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CheckpointError, match="must be a whole safetensors file, but got") as error:
        load_state(path)
    assert "\n" not in str(error.value)
    save_file({"w": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="must be a training checkpoint of format 1, but is not"):
        load_state(path)
    save_file({"w": torch.zeros(2)}, path, metadata={"hwsearch": json.dumps({"format": 99})})
    with pytest.raises(CheckpointError, match="of format 1"):
        load_state(path)


def test_the_configuration_is_checked():
    for field, value in {"epochs": 0, "learning_rate": 0.0, "clip_norm": -1.0, "label_smoothing": 1.0}.items():
        with pytest.raises(ValueError, match=field):
            TrainingConfig(**{field: value})
    with pytest.raises(ValueError, match="Extra inputs"):
        TrainingConfig(learning_rte=1)
    assert np.isclose(TrainingConfig().learning_rate, 3e-3)
