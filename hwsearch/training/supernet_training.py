"""Training a super-network: the sandwich on the one loop, identified by a digest so that it is done once."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch

from hwsearch.data.dataset import Dataset
from hwsearch.training.checkpoint import CheckpointError, load_state, split_tensors
from hwsearch.training.config import TrainingConfig
from hwsearch.training.group import Group
from hwsearch.training.loop import Learner, TrainingResult, fit
from hwsearch.training.optimizer import permute_optimizer
from hwsearch.training.progress import ProgressCallback
from hwsearch.training.sampling import Ranking
from hwsearch.training.sandwich import SandwichLearner, SinglePathLearner
from search_spaces.ordering import reorder_channels
from search_spaces.supernet import Supernet

FORMAT = 1
"""Raised whenever the same settings would give other weights than before."""


def training_digest(supernet: Supernet, dataset: Dataset, config: TrainingConfig) -> str:
    """Returns SHA-256 (hexadecimal) of all that decides the trained weights: space, tensors, data, settings.

    The weights with which training starts count too, so that a warm start is another training.
    """
    digest = hashlib.sha256()
    for name, array in sorted(supernet.to_arrays().items()):
        digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
    table = {
        "format": FORMAT,
        "space": supernet.space.fingerprint,
        "family": supernet.family.name,
        "data": {name: value for name, value in dataset.digests().items() if name == "train"},
        "preprocessing": dict(dataset.preprocessing),
        "augmentation": repr(dataset.train.augmentation),
        "training": config.identity(),
    }
    digest.update(json.dumps(table, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def train(
    supernet: Supernet,
    dataset: Dataset,
    config: TrainingConfig,
    *,
    checkpoint: Path | None = None,
    progress: ProgressCallback | None = None,
    ranking: Ranking | None = None,
    device: str = "cpu",
    group: Group | None = None,
) -> TrainingResult:
    """Trains the super-network in place by the schedule of its configuration; only the train split is read.

    With a checkpoint file of the same training, goes on after its last epoch; of a finished one, only loads
    its weights. Its BatchNorm statistics mix all subnets: recalibrate whatever is extracted.

    Args:
        supernet: with the initial weights.
        dataset: what to learn.
        config: how.
        checkpoint: written after every epoch.
        progress: called after every step.
        ranking: predicted quality of rows, for the attentive schedule.
        device: `cpu`, `cuda`; the super-network is moved there and back.
        group: processes that share every batch, each of which calls this with the same super-network. Each normalises
            by the statistics of its own part of a batch.

    Raises:
        CheckpointError, ValueError: as for `fit`.
    """
    if tuple(dataset.input_shape) != tuple(supernet.family.input_shape):
        raise ValueError(
            f"the super-network must read the data's {dataset.input_shape}, but reads {supernet.family.input_shape}."
        )
    digest = training_digest(supernet, dataset, config)
    groups = supernet.family.channel_groups()

    def reorder(epoch: int, optimizer: torch.optim.Optimizer) -> None:
        if epoch in config.reorder_epochs:
            permute_optimizer(optimizer, supernet.full, groups, reorder_channels(supernet, groups))

    learner: Learner
    if config.schedule == "single_path":
        learner = SinglePathLearner(supernet, config)
    else:
        n_steps = max(1, len(dataset.train) // config.batch_size * config.epochs)
        learner = SandwichLearner(supernet, config, n_steps=n_steps, ranking=ranking)
    supernet.to(device).train()
    try:
        return fit(
            supernet.full,
            learner,
            split=dataset.train,
            config=config,
            digest=digest,
            checkpoint=checkpoint,
            progress=progress,
            before_epoch=reorder,
            device=device,
            group=group,
        )
    finally:
        supernet.to("cpu").eval()


def load_weights(supernet: Supernet, path: Path) -> str:
    """Loads a checkpoint's weights into the super-network, whatever they were trained with; returns its digest.

    Raises:
        CheckpointError: the file is broken or of another super-network.
    """
    state = load_state(path)
    try:
        supernet.load_arrays({name: t.numpy() for name, t in split_tensors(state.tensors, "model").items()})
    except ValueError as error:
        raise CheckpointError(f"checkpoint {path}: {error}") from error
    supernet.eval()
    return state.digest
