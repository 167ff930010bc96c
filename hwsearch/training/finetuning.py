"""Fine-tuning a chosen net: its masks stay, a larger network may teach it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from hwsearch.data.dataset import Dataset
from hwsearch.training.config import TrainingConfig
from hwsearch.training.distillation import Distillation
from hwsearch.training.loop import TrainingResult
from hwsearch.training.network_training import train_network
from hwsearch.training.progress import ProgressCallback
from hwsearch.training.recipes.masking import GivenMask


def finetune(
    module: nn.Module,
    dataset: Dataset,
    config: TrainingConfig,
    *,
    masks: Mapping[str, Tensor],
    teacher: nn.Module | None = None,
    distillations: Sequence[Distillation] = (Distillation(),),
    checkpoint: Path | None = None,
    progress: ProgressCallback | None = None,
    device: str = "cpu",
) -> tuple[nn.Module, TrainingResult]:
    """Returns a trained copy of a subnet whose zeros are where they were; the given one is left alone.

    The copy's BatchNorm statistics are its own running ones: it is an ordinary network now, and needs no
    recalibration, though that does no harm.

    Args:
        module: as extracted.
        dataset: its train split is read.
        config: of the training.
        masks: of the chosen net, as `Supernet.masks` returns them or as its record holds them; empty for a dense one.
        teacher: for example the largest subnet, recalibrated.
        distillations: terms beside the labels; without a teacher there are none.
        checkpoint: as for `train_network`.
        progress: called after every step.
        device: where training runs.
    """
    tuned = copy.deepcopy(module)
    recipes = [GivenMask(masks=masks)] if masks else []
    result = train_network(
        tuned,
        dataset,
        config,
        recipes=recipes,
        teacher=teacher,
        distillations=distillations if teacher is not None else (),
        checkpoint=checkpoint,
        progress=progress,
        device=device,
    )
    return tuned, result
