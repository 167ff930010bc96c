"""Augmentation: random shift and mirror of a training batch, drawn from a generator that is passed in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True)
class Augmentation:
    """A random crop of the padded image, then a mirror image with probability one half.

    Args:
        pad: zeros added on every side before cropping back to the size; 0 switches the crop off.
        flip: mirror left and right.

    Source: the CIFAR augmentation of He et al. 2016 (pad 4, crop, flip).
    """

    pad: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        if self.pad < 0:
            raise ValueError(f"augmentation pad must be at least 0, but got {self.pad}.")

    def __call__(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Returns the augmented batch, (batch, channels, height, width); each example draws its own shift and side."""
        n, _, height, width = x.shape
        if self.pad:
            shift = torch.from_numpy(rng.integers(0, 2 * self.pad + 1, (2, n)))
            rows = shift[0][:, None] + torch.arange(height)  # (batch, height)
            columns = shift[1][:, None] + torch.arange(width)
            padded = pad(x, (self.pad,) * 4)
            x = padded.movedim(1, -1)[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
            x = x.movedim(-1, 1).contiguous()
        if self.flip:
            mirrored = torch.from_numpy(rng.random(n) < 0.5)
            x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
        return x
