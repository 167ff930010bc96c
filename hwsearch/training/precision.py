"""Mixed precision: the context in which forward passes run."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from hwsearch.training.config import TrainingConfig


def autocast(config: TrainingConfig, inputs: Tensor) -> AbstractContextManager[object]:
    """Returns bfloat16 autocast on the inputs' device, or nothing for fp32. bfloat16 needs no loss scaling."""
    if config.precision == "fp32":
        return nullcontext()
    return torch.autocast(inputs.device.type, dtype=torch.bfloat16)
