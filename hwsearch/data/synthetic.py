"""Synthetic images: one random smooth pattern per class plus noise; any shape, learnable, made from a seed."""

from __future__ import annotations

import numpy as np
from pydantic import Field, field_validator

from hwsearch.data.dataset import Dataset
from hwsearch.data.preprocessing import Preprocessing
from hwsearch.data.spec import DataSpec, Share, array_dataset


class SyntheticSpec(DataSpec):
    """Gaussian classes around smooth random patterns.

    Args:
        shape: (channels, height, width) of one image.
        n_classes: classes of equal size (within one).
        n: rows.
        noise: standard deviation of the noise, where the patterns have standard deviation 1.
        holdout_fraction: share of the rows that become the hold-out.
    """

    shape: tuple[int, int, int] = (1, 16, 16)
    n_classes: int = Field(default=4, ge=2)
    n: int = Field(default=512, ge=10)
    noise: float = Field(default=1.0, ge=0.0)
    holdout_fraction: Share = 0.2

    @field_validator("shape")
    @classmethod
    def _positive(cls, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        if min(shape) < 1:
            raise ValueError(f"synthetic shape must be positive, but got {list(shape)}.")
        return shape

    def open(self) -> Dataset:
        """Returns the data; the same description gives the same bytes."""
        rng = np.random.default_rng([self.seed, 2])
        channels, height, width = self.shape
        # Patterns of 4 x 4 cells: neighbouring pixels agree, so that convolutions have something to find.
        cells = rng.standard_normal((self.n_classes, channels, 4, 4))
        patterns = cells[:, :, np.arange(height) * 4 // height][:, :, :, np.arange(width) * 4 // width]
        labels = rng.permutation(np.arange(self.n) % self.n_classes)
        images = patterns[labels] + self.noise * rng.standard_normal((self.n, *self.shape))
        return array_dataset(
            self,
            "synthetic",
            images.astype(np.float32),
            labels.astype(np.int64),
            n_classes=self.n_classes,
            holdout_fraction=self.holdout_fraction,
            preprocessing=Preprocessing(1.0, (0.0,) * channels, (1.0,) * channels),
        )
