"""Progress: what a training tells its caller after every step; nothing here prints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Where a training stands.

    Args:
        epoch: current epoch, from 1.
        n_epochs: of the whole training.
        step: steps done, from 1.
        n_steps: of the whole training.
        loss: of the largest network on the labels of the last batch.
        learning_rate: of the last step.
        elapsed_seconds: wall time spent, earlier sessions of a resumed training included.
        eta_seconds: wall time that remains.
    """

    epoch: int
    n_epochs: int
    step: int
    n_steps: int
    loss: float
    learning_rate: float
    elapsed_seconds: float
    eta_seconds: float


ProgressCallback = Callable[[Progress], None]
