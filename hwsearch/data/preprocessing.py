"""Preprocessing: the fixed arithmetic from stored pixels to network inputs, so simple that a card can state it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isfinite

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Preprocessing:
    """Divide by `scale`, repeat every pixel, subtract `mean`, divide by `std`; in float32, in this order.

    Args:
        scale: largest stored value; positive.
        mean: per channel, after scaling.
        std: per channel, after scaling; positive.
        repeat: each pixel becomes a square of this side (nearest-neighbour upscaling).
    """

    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    repeat: int = 1

    def __post_init__(self) -> None:
        if not self.scale > 0 or any(not s > 0 for s in self.std):
            raise ValueError(f"scale and std must be positive, but got {self.scale} and {list(self.std)}.")
        if len(self.mean) != len(self.std) or not all(isfinite(m) for m in self.mean):
            raise ValueError(f"mean and std must have one finite value per channel, but got {self.mean}, {self.std}.")
        if self.repeat < 1:
            raise ValueError(f"repeat must be at least 1, but got {self.repeat}.")

    def __call__(self, images: NDArray[np.uint8] | NDArray[np.float32]) -> Tensor:
        """Returns network inputs, (batch, channels, height * repeat, width * repeat) float32, of stored pixels."""
        x = torch.from_numpy(np.ascontiguousarray(images)).float() / self.scale
        if self.repeat > 1:
            x = x.repeat_interleave(self.repeat, dim=2).repeat_interleave(self.repeat, dim=3)
        mean, std = (torch.tensor(v, dtype=torch.float32)[:, None, None] for v in (self.mean, self.std))
        return (x - mean) / std

    def to_dict(self) -> dict[str, object]:
        """Returns the numbers and one sentence for a card, JSON-able."""
        steps = f"x / {self.scale:g}"
        if self.repeat > 1:
            steps = f"repeat each pixel of {steps} {self.repeat} x {self.repeat} times"
        channels = "per channel " if len(self.mean) > 1 else ""
        steps += f"; then (x - {_shown(self.mean)}) / {_shown(self.std)} {channels}in float32"
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std), "steps": steps.rstrip()}


def _shown(values: tuple[float, ...]) -> str:
    return f"{values[0]:g}" if len(values) == 1 else "[" + ", ".join(f"{v:g}" for v in values) + "]"
