"""Training a super-network: deterministic, resumed bit-equal, gradients in the slice only, clear errors."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from hwsearch.data.digits import DigitsSpec
from hwsearch.data.synthetic import SyntheticSpec
from hwsearch.evaluation import calibration_batches, evaluate
from hwsearch.training.checkpoint import CheckpointError, load_state
from hwsearch.training.config import TrainingConfig
from hwsearch.training.sandwich import SandwichLearner
from hwsearch.training.supernet_training import load_weights, train, training_digest
from search_spaces.mlp import MLP
from search_spaces.mobilenet import MobileNet, Stage
from search_spaces.supernet import SparsityGenes, Supernet

SHAPE = (1, 8, 8)
DATA = SyntheticSpec(shape=SHAPE, n_classes=3, n=120, noise=0.5)
CONFIG = TrainingConfig(epochs=4, batch_size=16, n_random=1, reorder_epochs=(2,), warmup_epochs=0.5)


def supernet(seed=0):
    stages = (Stage(width=(8, 16), depth=(1, 2), kernel=(3,), expand=(1, 2)),)
    family = MobileNet(input_shape=SHAPE, n_classes=3, stem=8, head=16, stages=stages)
    return Supernet(family, sparsity=SparsityGenes(("dense", "unstructured-0.5", "2:4")), seed=seed)


def same(a: Supernet, b: Supernet) -> bool:
    return all(
        torch.equal(x, y) for x, y in zip(a.full.state_dict().values(), b.full.state_dict().values(), strict=True)
    )


class Stop(Exception):
    pass


def stop_in_epoch(epoch):
    def callback(progress):
        if progress.epoch == epoch:
            raise Stop

    return callback


def test_training_is_deterministic_and_resumes_bit_equal(tmp_path):
    data, whole, path = DATA.open(), supernet(), tmp_path / "c.safetensors"
    seen = []
    result = train(whole, data, CONFIG, progress=seen.append)
    assert (result.epochs, result.steps, len(result.epoch_losses)) == (4, len(seen), 4)
    assert [p.step for p in seen] == list(range(1, result.steps + 1))
    assert seen[-1].eta_seconds == 0.0 and seen[0].n_steps == result.steps
    for epoch in (2, 3, 4):  # stopped in epoch 2, 3 and 4: continues after epoch 1, 2 and 3
        with pytest.raises(Stop):
            train(supernet(), data, CONFIG, checkpoint=path, progress=stop_in_epoch(epoch))
        assert load_state(path).epoch == epoch - 1
    resumed = supernet()
    again = train(resumed, data, CONFIG, checkpoint=path)
    assert same(whole, resumed)
    assert again.epoch_losses == result.epoch_losses and again.digest == result.digest
    other = supernet()
    train(other, data, CONFIG.model_copy(update={"seed": 1}))
    assert not same(whole, other)
    # A finished checkpoint is loaded, not trained.
    loaded, calls = supernet(), []
    train(loaded, data, CONFIG, checkpoint=path, progress=calls.append)
    assert same(whole, loaded) and not calls
    fresh = supernet(seed=5)
    assert load_weights(fresh, path) == result.digest and same(whole, fresh)
    assert not fresh.training and not whole.full.training


SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(int(sys.argv[2]))  # sums depend on it
from tests.hwsearch.training.test_supernet_training import CONFIG, DATA, supernet
from hwsearch.training.supernet_training import train
train(supernet(), DATA.open(), CONFIG, checkpoint=Path(sys.argv[1]))
"""


def test_a_killed_training_goes_on_bit_equal(tmp_path):
    path = tmp_path / "c.safetensors"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(path), str(torch.get_num_threads())])
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert path.exists()
    resumed, whole = supernet(), supernet()
    train(resumed, DATA.open(), CONFIG, checkpoint=path)
    train(whole, DATA.open(), CONFIG)
    assert same(whole, resumed)


def test_gradients_outside_the_slice_and_under_the_mask_are_zero():
    net = supernet().train()
    small = net.space.architecture({**net.space.smallest(), "stage1.sparsity": "2:4"})
    net(torch.randn(4, *SHAPE), small).square().sum().backward()
    masks = net.masks(small)
    assert masks
    shapes = {name: t.shape for name, t in net.dense_weights(small).items()}
    for name, parameter in net.full.named_parameters():
        if name not in shapes:
            assert parameter.grad is None or not parameter.grad.any()
            continue
        inside = torch.zeros_like(parameter, dtype=torch.bool)
        block = inside[tuple(slice(0, n) for n in shapes[name])]
        block |= masks.get(name, torch.ones_like(block))
        assert not parameter.grad[~inside].any(), name
        assert parameter.grad[inside].any(), name


def test_the_sandwich_sums_the_gradients_of_all_its_subnets():
    config = TrainingConfig(n_random=2, label_smoothing=0.1, temperature=2.0)
    family = MLP(input_shape=(4,), n_classes=3, hidden=((4, 8),))
    net = Supernet(family, sparsity=SparsityGenes(("dense", "unstructured-0.5"))).train()
    x, y = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 0, 1, 2])
    loss = SandwichLearner(net, config).learn(x, y, 5)
    got = {n: p.grad.clone() for n, p in net.full.named_parameters()}
    net.zero_grad()
    teacher = net(x, net.space.largest())
    total = torch.nn.functional.cross_entropy(teacher, y, label_smoothing=0.1)
    assert loss == pytest.approx(total.item())
    p = torch.softmax(teacher.detach() / 2, 1)
    rows = net.space.sample(2, np.random.default_rng([0, 5]))
    smallest = net.space.architecture({"layer1.nodes": 4, "layer1.sparsity": "unstructured-0.5"})
    for arch in [smallest, *net.space.architectures(rows)]:
        total = total - 4 * (p * torch.log_softmax(net(x, arch) / 2, 1)).sum(1).mean()
    total.backward()
    assert all(torch.allclose(got[n], p.grad, atol=1e-6) for n, p in net.full.named_parameters())


def test_a_supernet_learns_and_subnets_are_scored_by_recalibrated_statistics():
    data, net = DATA.open(), supernet()
    train(net, data, TrainingConfig(epochs=8, batch_size=24, n_random=1, learning_rate=1e-2))
    calibration = calibration_batches(data.train, n=72)
    for arch in (net.space.largest(), net.space.smallest()):
        module = net.extract(arch)
        assert evaluate(module, data.train, calibration=calibration).accuracy > 0.9  # chance is 1/3


def test_an_mlp_supernet_learns_digits():
    data = DigitsSpec(size=8).open()
    net = Supernet(MLP(input_shape=(1, 8, 8), n_classes=10, hidden=((16, 64),)))
    before = evaluate(net.extract(net.space.largest()), data.search)
    train(net, data, TrainingConfig(epochs=10, batch_size=64, n_random=0, learning_rate=1e-2))
    largest = evaluate(net.extract(net.space.largest()), data.search)
    smallest = evaluate(net.extract(net.space.smallest()), data.search)
    # 359 search examples: a standard error below 2 points at 90 %, and chance is 10 %.
    assert before.accuracy < 0.4 and largest.accuracy > 0.9 and smallest.accuracy > 0.8
    assert largest.loss < before.loss


def test_evaluation_counts_right_answers_and_restores_modes():
    data = DATA.open()
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.9), torch.nn.Linear(64, 3))
    module.train()
    module[0].eval()
    score = evaluate(module, data.holdout, batch_size=7)
    x, y = next(data.holdout.batches(1000))
    logits = module[2](x.flatten(1))
    assert score.n == len(y)
    assert score.accuracy == pytest.approx((logits.argmax(1) == y).float().mean().item())
    assert score.loss == pytest.approx(torch.nn.functional.cross_entropy(logits, y).item(), rel=1e-5)
    assert score.accuracy_std == pytest.approx((score.accuracy * (1 - score.accuracy) / len(y)) ** 0.5)
    assert [m.training for m in module] == [False, True, True]


def test_calibration_batches_are_the_same_training_examples_every_time():
    train_split = DATA.open().train
    one, same_ = (calibration_batches(train_split, n=20, batch_size=8) for _ in range(2))
    assert [len(b) for b in one] == [8, 8, 4]
    assert all(torch.equal(a, b) for a, b in zip(one, same_, strict=True))
    assert sum(map(len, calibration_batches(train_split, n=10_000))) == len(train_split)
    with pytest.raises(ValueError, match="calibration must use at least 1 example, but got 0"):
        calibration_batches(train_split, n=0)


def test_the_digest_changes_with_everything_that_matters():
    data, config = DATA.open(), CONFIG
    digests = {
        training_digest(supernet(), data, config),
        training_digest(supernet(seed=1), data, config),
        training_digest(supernet(), DATA.model_copy(update={"seed": 4}).open(), config),
        training_digest(supernet(), data, config.model_copy(update={"epochs": 5})),
    }
    assert len(digests) == 4
    assert training_digest(supernet(), DATA.open(), CONFIG) in digests


def test_a_time_bound_ends_the_training():
    config = CONFIG.model_copy(update={"epochs": 10_000, "seconds": 0.5})
    result = train(supernet(), DATA.open(), config)
    assert 0.4 < result.seconds < 30 and result.epochs < 10_000


def test_mistakes_are_one_clear_line(tmp_path):
    data, path = DATA.open(), tmp_path / "c.safetensors"
    with pytest.raises(
        ValueError, match=r"training.batch_size must be at most the 72 examples of the train split, but got 99"
    ):
        train(supernet(), data, CONFIG.model_copy(update={"batch_size": 99}))
    wide = SyntheticSpec(shape=(1, 9, 9), n=60).open()
    with pytest.raises(ValueError, match=r"must read the data's \(1, 9, 9\), but reads \(1, 8, 8\)"):
        train(supernet(), wide, CONFIG)
    with pytest.raises(ValueError, match=r"the training loss must stay finite, but is (nan|inf) at step"):
        train(supernet(), data, CONFIG.model_copy(update={"learning_rate": 1e12, "clip_norm": None}))
    train(supernet(), data, CONFIG.model_copy(update={"epochs": 1}), checkpoint=path)
    with pytest.raises(CheckpointError, match=r"must be of this training .* but is of another"):
        train(supernet(), data, CONFIG, checkpoint=path)
    path.write_bytes(b"broken")
    with pytest.raises(CheckpointError, match="must be a whole safetensors file"):
        train(supernet(), data, CONFIG, checkpoint=path)
    train(Supernet(MLP(input_shape=SHAPE, n_classes=3, hidden=((4,),))), data, CONFIG, checkpoint=tmp_path / "mlp")
    with pytest.raises(CheckpointError, match="the weights must fit the super-network, but: missing"):
        load_weights(supernet(), tmp_path / "mlp")
