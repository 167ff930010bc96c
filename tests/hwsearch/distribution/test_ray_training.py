"""Ray Train carries the one loop: one rank is the plain training bit for bit; a lost worker costs an epoch."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import ray
import torch

from hwsearch.data.synthetic import SyntheticSpec
from hwsearch.distribution import ray_training
from hwsearch.distribution.jobs import Resources
from hwsearch.distribution.ray_training import Keeper, Place, train_on_ray
from hwsearch.errors import MissingExtraError, UserError, WorkerError
from hwsearch.training.checkpoint import load_state
from hwsearch.training.config import TrainingConfig
from hwsearch.training.supernet_training import train
from search_spaces.mobilenet import MobileNet, Stage
from search_spaces.supernet import Supernet

DATA = SyntheticSpec(shape=(1, 8, 8), n_classes=3, n=120, noise=0.5)
CONFIG = TrainingConfig(epochs=3, batch_size=16, n_random=1, reorder_epochs=(2,), warmup_epochs=0.5)
NEEDS = Resources(cpus=0.5)


def make(seed: int = 0) -> Supernet:
    stages = (Stage(width=(8, 16), depth=(1, 2), kernel=(3,), expand=(1, 2)),)
    return Supernet(MobileNet(input_shape=(1, 8, 8), n_classes=3, stem=8, head=16, stages=stages), seed=seed)


class Deadly:
    """A data set of which one worker dies, once, in its second epoch."""

    def __init__(self, flag: Path, kill: bool) -> None:
        self.flag, self.kill = flag, kill

    def __call__(self) -> object:
        data = DATA.open()
        if self.kill:
            shuffled, flag = data.train.shuffled, self.flag

            def deadly(batch_size, rng, *, shard=(0, 1)):
                (flag / f"epoch-{shard[0]}").open("a").write("x")
                if shard[0] == 1 and len((flag / "epoch-1").read_text()) == 2:
                    os.kill(os.getpid(), signal.SIGKILL)
                return shuffled(batch_size, rng, shard=shard)

            data.train.shuffled = deadly
        return data


def material(flag: Path, kill: bool, config: TrainingConfig):
    torch.set_num_threads(1)
    return make(seed=9), Deadly(flag, kill)(), config  # the weights of the driver replace these


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=10**8)
    yield
    ray.shutdown()


def go(tmp_path: Path, *, workers: int, kill: bool = False, config=CONFIG, retries: int = 3, **options):
    net, data = make(), DATA.open()
    place = Place(workers, NEEDS, retries=retries, storage=options.pop("storage", None))
    path = tmp_path / "training" / "checkpoint.safetensors"
    made = partial(material, tmp_path, kill, config)
    train_on_ray(made, net, data, config, place=place, checkpoint=path, **options)
    return net, path


@pytest.mark.ray
def test_one_rank_is_the_plain_loop_bit_for_bit(cluster: None, tmp_path: Path) -> None:
    threads, plain = torch.get_num_threads(), make()
    torch.set_num_threads(1)  # sums depend on it
    try:
        result = train(plain, DATA.open(), CONFIG)
        seen: list[object] = []
        storage = (tmp_path / "elsewhere").as_uri()
        net, path = go(tmp_path, workers=1, progress=seen.append, storage=storage)
    finally:
        torch.set_num_threads(threads)
    for name, array in plain.to_arrays().items():
        np.testing.assert_array_equal(net.to_arrays()[name], array)
    assert (tmp_path / "elsewhere" / path.name).read_bytes() == path.read_bytes()
    assert load_state(path).epoch_losses == result.epoch_losses
    assert seen


@pytest.mark.ray
def test_a_lost_worker_costs_an_epoch_and_nothing_else(cluster: None, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole, _ = go(tmp_path / "whole", workers=2)
    killed, _ = go(tmp_path / "killed", workers=2, kill=True)
    assert len((tmp_path / "killed" / "epoch-1").read_text()) == 4  # three epochs, and the second again
    for name, array in whole.to_arrays().items():
        np.testing.assert_array_equal(killed.to_arrays()[name], array)
    with pytest.raises(UserError, match=r"executor\.training\.workers must be at most the 4 that fit"):
        go(tmp_path, workers=5)


@pytest.mark.ray
def test_a_training_that_fails_is_one_line(cluster: None, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"learning_rate": 1e30, "clip_norm": None, "optimizer": "sgd"})
    with pytest.raises(WorkerError, match=r"the training must end on all workers, but: .*loss must stay finite") as e:
        go(tmp_path, workers=1, config=config, retries=0)
    assert "\n" not in str(e.value)


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
            make, make(), DATA.open(), CONFIG, place=Place(2, NEEDS), checkpoint=tmp_path / "c.safetensors"
        )
