"""Evaluation: the accuracy of a plain module on a split, after its BatchNorm statistics were set from training data."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from hwsearch.data.dataset import Split
from hwsearch.export.base import Exporter
from hwsearch.results import Artifact
from search_spaces.batchnorm import recalibrate


@dataclass(frozen=True)
class Score:
    """How a module does on a split.

    Args:
        accuracy: share of examples whose largest logit is the right class.
        loss: mean cross-entropy, nats.
        n: examples.
    """

    accuracy: float
    loss: float
    n: int

    @property
    def accuracy_std(self) -> float:
        """Standard error of the accuracy, sqrt(p (1 - p) / n)."""
        return float(np.sqrt(self.accuracy * (1.0 - self.accuracy) / self.n))


def calibration_batches(train: Split, *, n: int = 512, batch_size: int = 128, seed: int = 0) -> list[Tensor]:
    """Returns inputs of `n` training examples drawn without replacement (all, if there are fewer), not augmented.

    The same arguments give the same batches, so that every subnet is calibrated alike.
    """
    if n < 1:
        raise ValueError(f"calibration must use at least 1 example, but got {n}.")
    rows = np.random.default_rng([seed, 3]).permutation(len(train))[:n]
    return [train.inputs(rows[start : start + batch_size]) for start in range(0, len(rows), batch_size)]


def first(batches: Iterable[Tensor], n: int) -> list[Tensor]:
    """Returns the first `n` examples of batches, in as many batches as they came in."""
    kept = []
    for batch in batches:
        if n <= 0:
            break
        kept.append(batch[:n])
        n -= len(batch)
    return kept


def evaluate_artifact(
    exporter: Exporter,
    artifact: Artifact,
    split: Split,
    *,
    batch_size: int = 256,
    prepare: Callable[[Tensor], Tensor] | None = None,
) -> Score:
    """Returns the score of an artifact on all examples of a split, computed by its real engine.

    Args:
        exporter: of the artifact's format: runs it.
        artifact: takes one input and gives logits.
        split: as for `evaluate`.
        batch_size: as for `evaluate`.
        prepare: as for `evaluate`.

    Raises:
        DeviceError: the engine cannot run it.
    """
    right, loss = 0, 0.0
    for inputs, targets in split.batches(batch_size):
        x = inputs if prepare is None else prepare(inputs)
        logits = torch.from_numpy(exporter.run(artifact, (x.numpy(),)))
        right += int((logits.argmax(dim=1) == targets).sum())
        loss += float(F.cross_entropy(logits, targets, reduction="sum"))
    return Score(right / len(split), loss / len(split), len(split))


@torch.no_grad()
def correct_answers(module: nn.Module, split: Split, *, batch_size: int = 256) -> NDArray[np.bool_]:
    """Returns which examples of a split the module classifies rightly, (n,), in eval mode; modes are restored.

    Two of these on one split can be compared example by example, which tells smaller differences apart than two
    accuracies do.
    """
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    modes = {m: m.training for m in module.modules()}
    parts = []
    try:
        module.eval()
        for inputs, targets in split.batches(batch_size):
            parts.append((module(inputs.to(device)).argmax(dim=1).cpu() == targets).numpy())
    finally:
        for m, training in modes.items():
            m.training = training
    return np.concatenate(parts)


@torch.no_grad()
def evaluate(
    module: nn.Module,
    split: Split,
    *,
    calibration: Iterable[Tensor] | None = None,
    batch_size: int = 256,
    prepare: Callable[[Tensor], Tensor] | None = None,
) -> Score:
    """Returns the score of a plain module on all examples of a split, in eval mode; modes are restored.

    Args:
        module: as extracted; runs where its parameters are. With `calibration`, its BatchNorm statistics are
            set first and stay so, and what is exported afterwards is what was scored.
        split: not augmented.
        calibration: inputs from the train split; None leaves the statistics as they are.
        batch_size: has no influence on the score beyond rounding.
        prepare: applied to every batch of the split (a resolution of its own); None leaves it.
    """
    if calibration is not None:
        recalibrate(module, calibration)
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    modes = {m: m.training for m in module.modules()}
    right, loss = 0, 0.0
    try:
        module.eval()
        for inputs, targets in split.batches(batch_size):
            logits = module(inputs.to(device) if prepare is None else prepare(inputs.to(device))).float()
            targets = targets.to(device)
            right += int((logits.argmax(dim=1) == targets).sum())
            loss += float(F.cross_entropy(logits, targets, reduction="sum"))
    finally:
        for m, training in modes.items():
            m.training = training
    return Score(right / len(split), loss / len(split), len(split))
