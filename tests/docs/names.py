"""The names that Python blocks of the documentation take from their reader, by page."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from predictors.ridge import Ridge
from search_spaces.mlp import MLP
from search_spaces.supernet import Supernet


def names(page: str) -> dict[str, Any]:
    """Returns a namespace in which a block of the page can run."""
    rng = np.random.default_rng(0)
    made: dict[str, Any] = {"np": np, "torch": torch, "rng": rng}
    if page == "own_model.md":
        made["module"] = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(1), nn.LazyLinear(10)).eval()
        made["example_inputs"] = torch.zeros(2, 1, 8, 8)
        made["module"](made["example_inputs"])
    if page == "predictors.md":
        supernet = Supernet(MLP(input_shape=(1, 8, 8), n_classes=10, hidden=((8, 16, 24, 32),) * 3))
        rows = np.unique(supernet.space.sample(50, rng), axis=0)
        ms = 1.0 + rows.sum(axis=1, dtype=np.float64) + rng.normal(0, 0.01, len(rows))
        made.update(supernet=supernet, space=supernet.space, population=rows[:24], others=rows[24:])
        made.update(latency_ms=ms[:24], measure=lambda chosen: 1.5 * (1.0 + chosen.sum(axis=1, dtype=np.float64)))
        made.update({name: Ridge(supernet.space).fit(rows, ms * k) for k, name in enumerate("ptx", 1)})
    return made
