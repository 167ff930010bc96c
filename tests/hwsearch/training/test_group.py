"""Several processes that share every batch: as one process, as far as rounding goes; and with a faulty one."""

from __future__ import annotations

import os
import socket

import numpy as np
import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing

from hwsearch.data.synthetic import SyntheticSpec
from hwsearch.errors import UserError
from hwsearch.training.config import TrainingConfig
from hwsearch.training.group import Group, ProcessGroup, check_workers
from hwsearch.training.loop import fit
from hwsearch.training.sandwich import SandwichLearner
from hwsearch.training.supernet_training import train, training_digest
from search_spaces.mlp import MLP
from search_spaces.supernet import SparsityGenes, Supernet

DATA = SyntheticSpec(shape=(1, 4, 4), n_classes=3, n=120, noise=0.3)
CONFIG = TrainingConfig(epochs=3, batch_size=24, n_random=1, optimizer="sgd", learning_rate=0.1, warmup_epochs=0.5)


def supernet() -> Supernet:
    family = MLP(input_shape=(1, 4, 4), n_classes=3, hidden=((8, 16), (8, 16)))
    return Supernet(family, sparsity=SparsityGenes(("dense", "unstructured-0.5")), seed=0)


class Wrong(SandwichLearner):
    """Its gradients point the other way, and far."""

    def learn(self, inputs, targets, step):
        loss = super().learn(inputs, targets, step)
        for parameter in self.supernet.full.parameters():
            parameter.grad.mul_(-20.0)
        return loss


def lead(rank, config):
    """One training in which rank 1 is wrong."""
    net, data = supernet(), DATA.open()
    learner = (Wrong if rank == 1 else SandwichLearner)(net, config)
    net.train()
    result = fit(net.full, learner, split=data.train, config=config, group=ProcessGroup(config))
    return net, result.epoch_losses


def work(rank, size, port, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=size)
    out = {}
    net, data = supernet(), DATA.open()
    path = folder / f"{rank}.safetensors"
    result = train(net, data, CONFIG, group=ProcessGroup(CONFIG), checkpoint=path)
    out["mean"] = (net.to_arrays(), result.epoch_losses)
    out["wrote"] = path.exists()
    timed = CONFIG.model_copy(update={"seconds": 0.05, "epochs": 1000})  # ranks must end at the same step
    net = supernet()
    out["timed"] = (None, train(net, data, timed, group=ProcessGroup(timed)).steps)
    for kind in ("mean", "median", "trimmed_mean", "flag"):
        config = CONFIG.model_copy(update={"aggregation": kind, "epochs": 6})
        try:
            net, losses = lead(rank, config)
            out[f"wrong {kind}"] = (net.to_arrays(), losses)
        except ValueError as error:
            out[f"wrong {kind}"] = (None, str(error))
    torch.save(out, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(work, args=(3, port, folder), nprocs=3)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(3)]


def test_three_ranks_are_one_with_the_whole_batch(outcomes):
    alone = supernet()
    result = train(alone, DATA.open(), CONFIG)
    for rank in outcomes:
        arrays, losses = rank["mean"]
        # Sums of 8 and of 24 examples are rounded differently; without BatchNorm nothing else differs.
        assert losses == pytest.approx(result.epoch_losses, abs=1e-5)
        for name, array in alone.to_arrays().items():
            np.testing.assert_allclose(arrays[name], array, atol=1e-5)
            np.testing.assert_array_equal(arrays[name], outcomes[0]["mean"][0][name])
    assert [rank["wrote"] for rank in outcomes] == [True, False, False]


def test_ranks_end_together_when_the_time_is_over(outcomes):
    steps = {rank["timed"][1] for rank in outcomes}
    assert len(steps) == 1
    assert steps.pop() > 0


def test_one_wrong_worker_spoils_the_mean_and_not_the_robust(outcomes):
    honest = train(supernet(), DATA.open(), CONFIG.model_copy(update={"epochs": 6})).epoch_losses
    assert honest[-1] < 0.5 * honest[0]
    for kind in ("median", "trimmed_mean", "flag"):
        losses = outcomes[0][f"wrong {kind}"][1]
        # A reversed unit gradient among three leaves a third of the step to the flag.
        assert losses[-1] < (0.85 if kind == "flag" else 0.6) * losses[0], kind
        for rank in outcomes[1:]:
            for name, array in outcomes[0][f"wrong {kind}"][0].items():
                np.testing.assert_array_equal(rank[f"wrong {kind}"][0][name], array)
    spoilt = outcomes[0]["wrong mean"][1]
    assert isinstance(spoilt, str) or spoilt[-1] > spoilt[0]


def test_parts_of_a_batch_are_the_batch():
    split = DATA.open().train
    whole = list(split.shuffled(12, np.random.default_rng(5)))
    parts = [list(split.shuffled(12, np.random.default_rng(5), shard=(rank, 3))) for rank in range(3)]
    for i, (inputs, targets) in enumerate(whole):
        for rank in range(3):
            assert torch.equal(parts[rank][i][0], inputs[rank::3])
            assert torch.equal(parts[rank][i][1], targets[rank::3])


def test_a_process_alone_changes_nothing():
    net = supernet()
    assert (Group().combine(net.full, 0.5), Group().agree(3.0), Group.rank, Group.size) == (0.5, 3.0, 0, 1)


def test_the_aggregation_is_part_of_a_training_that_uses_it():
    net, data = supernet(), DATA.open()
    digests = {
        training_digest(net, data, CONFIG.model_copy(update=update))
        for update in ({}, {"n_faulty": 2}, {"aggregation": "flag"}, {"aggregation": "median"})
    }
    assert len(digests) == 3


def test_workers_that_cannot_share_a_training():
    with pytest.raises(
        UserError, match=r"training\.batch_size must be a multiple of executor\.training\.workers = 5, but got 24"
    ):
        check_workers(CONFIG, 5)
    check_workers(CONFIG, 3)
    for kind, least in (("median", 3), ("flag", 3), ("trimmed_mean", 5)):
        config = CONFIG.model_copy(update={"aggregation": kind, "n_faulty": 2})
        message = rf"executor\.training\.workers must be at least {least} for training\.aggregation: {kind}, but got 2"
        with pytest.raises(UserError, match=message):
            check_workers(config, 2)
