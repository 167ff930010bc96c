"""Ray Train carries the one loop: one rank is the plain training bit for bit; a lost worker costs an epoch."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from hwsearch.commands.run import run
from hwsearch.data.dataset import Dataset
from hwsearch.data.synthetic import SyntheticSpec
from hwsearch.distribution import ray_training
from hwsearch.distribution.jobs import Resources
from hwsearch.distribution.ray_training import Keeper, Place, _follow, train_on_ray
from hwsearch.errors import MissingExtraError, UserError, WorkerError
from hwsearch.training.checkpoint import load_state
from hwsearch.training.config import TrainingConfig
from hwsearch.training.supernet_training import train
from search_spaces.mlp import MLP
from search_spaces.mobilenet import MobileNet, Stage
from search_spaces.supernet import Supernet
from tests.hwsearch.runs import Silent, digits, write

DATA = SyntheticSpec(shape=(1, 8, 8), n_classes=3, n=120, noise=0.5)
CONFIG = TrainingConfig(epochs=3, batch_size=16, n_random=1, reorder_epochs=(2,), warmup_epochs=0.5)
NEEDS = Resources(cpus=0.5)


WITHOUT_NORM = TrainingConfig(epochs=3, batch_size=16, n_random=1, optimizer="sgd", learning_rate=0.1)


def make(config: TrainingConfig, seed: int = 0) -> Supernet:
    if config.optimizer == "sgd":
        return Supernet(MLP(input_shape=(1, 8, 8), n_classes=3, hidden=((8, 16),)), seed=seed)
    stages = (Stage(width=(8, 16), depth=(1, 2), kernel=(3,), expand=(1, 2)),)
    return Supernet(MobileNet(input_shape=(1, 8, 8), n_classes=3, stem=8, head=16, stages=stages), seed=seed)


def deadly(data: Dataset, folder: Path) -> Dataset:
    """Makes the last rank of a group die, once, in its second epoch."""
    shuffled = data.train.shuffled

    def die(batch_size: int, rng: np.random.Generator, *, shard: tuple[int, int] = (0, 1)) -> object:
        if shard[0] == shard[1] - 1:
            with (folder / "epochs").open("a") as file:
                file.write("x")
            if (folder / "epochs").read_text() == "xx":
                os.kill(os.getpid(), signal.SIGKILL)
        return shuffled(batch_size, rng, shard=shard)

    data.train.shuffled = die  # type: ignore[method-assign, assignment]
    return data


def material(folder: Path, config: TrainingConfig) -> tuple[Supernet, Dataset, TrainingConfig]:
    torch.set_num_threads(1)
    return make(config, seed=9), deadly(DATA.open(), folder), config  # the weights of the driver replace these


@pytest.fixture
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=10**8)
    yield
    ray.shutdown()


def go(folder: Path, config: TrainingConfig, place: Place, **options: Any) -> tuple[Supernet, Path]:
    net, path = make(config), folder / "training" / "checkpoint.safetensors"
    train_on_ray(partial(material, folder, config), net, DATA.open(), config, place=place, checkpoint=path, **options)
    return net, path


@pytest.mark.ray
@pytest.mark.slow
def test_one_rank_is_the_plain_loop_bit_for_bit_and_a_lost_worker_costs_an_epoch(cluster: None, tmp_path: Path) -> None:
    threads, plain = torch.get_num_threads(), make(CONFIG)
    torch.set_num_threads(1)  # sums depend on it
    try:
        result = train(plain, DATA.open(), CONFIG)
    finally:
        torch.set_num_threads(threads)
    seen: list[object] = []
    place = Place(1, NEEDS, storage=(tmp_path / "elsewhere").as_uri())
    net, path = go(tmp_path, CONFIG, place, progress=seen.append)
    assert (tmp_path / "epochs").read_text() == "xxxx"  # three, and the second again
    for name, array in plain.to_arrays().items():
        np.testing.assert_array_equal(net.to_arrays()[name], array)
    assert (tmp_path / "elsewhere" / path.name).read_bytes() == path.read_bytes()
    assert load_state(path).epoch_losses == result.epoch_losses
    assert seen
    with pytest.raises(UserError, match=r"executor\.training\.workers must be at most the 4 that fit .* but got 5"):
        go(tmp_path, CONFIG, Place(5, NEEDS))


@pytest.mark.ray
@pytest.mark.slow
def test_two_ranks_of_which_one_is_lost_are_one_with_the_whole_batch(cluster: None, tmp_path: Path) -> None:
    net, _ = go(tmp_path, WITHOUT_NORM, Place(2, NEEDS))
    assert (tmp_path / "epochs").read_text() == "xxxx"
    plain = make(WITHOUT_NORM)
    train(plain, DATA.open(), WITHOUT_NORM)
    for name, array in plain.to_arrays().items():
        np.testing.assert_allclose(net.to_arrays()[name], array, atol=1e-5)  # as in test_group


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_trains_on_two_workers_and_goes_on_with_one(tmp_path: Path) -> None:
    place = {"workers": 2, "cpus": 0.5}
    executor = {"kind": "ray", "workers": 1, "accuracy": {"cpus": 0.5}, "training": place}
    raw = digits(executor=executor, search={"engine": "random", "trials": 4})
    folder = tmp_path / "run"
    outcome = run(write(tmp_path, raw), run_dir=folder, observer=Silent())
    assert outcome.n_trials == 4
    assert outcome.n_failed == 0
    checkpoint = folder / "training" / "checkpoint.safetensors"
    assert load_state(checkpoint).epoch == 2
    # Where a training runs is no part of what the run is.
    raw["executor"]["training"] = {"workers": None}
    raw["search"]["trials"] = 5
    assert run(write(tmp_path, raw), run_dir=folder, observer=Silent()).n_trials == 5


class Failed(Exception):
    worker_failures = {1: ValueError("the training loss must stay finite,\nbut is nan")}


def test_a_training_that_fails_is_one_line() -> None:
    def fail() -> None:
        raise Failed

    with pytest.raises(WorkerError, match=r"the training must end on all workers, but: ValueError: the training") as e:
        _follow(fail, lambda: None, None)
    assert "\n" not in str(e.value)
    assert "The same command continues" in str(e.value)


def test_a_keeper_keeps_whole_files(tmp_path: Path) -> None:
    for url in (str(tmp_path / "a" / "c.bin"), "memory://bucket/run/c.bin"):
        keeper = Keeper(url)
        assert keeper.load() is None
        keeper.save(b"one")
        keeper.save(b"two")
        assert keeper.load() == b"two"
    assert keeper.told() is None


def test_without_ray_train(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray.train", None)
    with pytest.raises(MissingExtraError, match=r"needs Ray Train, .*hwsearch\[cluster\]"):
        ray_training.train_on_ray(
            partial(material, tmp_path, CONFIG),
            make(CONFIG),
            DATA.open(),
            CONFIG,
            place=Place(2, NEEDS),
            checkpoint=tmp_path / "c.safetensors",
        )
