"""scikit-learn's digits: 1,797 real handwritten digits of 8 x 8 pixels that ship with the package."""

from __future__ import annotations

import numpy as np
from pydantic import Field, field_validator

from hwsearch.data.augmentation import Augmentation
from hwsearch.data.dataset import Dataset
from hwsearch.data.preprocessing import Preprocessing
from hwsearch.data.spec import DataSpec, Share, array_dataset

SIDE = 8
# Rounded mean and standard deviation of all pixels / 16; constants, so that a card can state them.
MEAN, STD = 0.305, 0.376


class DigitsSpec(DataSpec):
    """The data set `sklearn.datasets.load_digits()`, split by seed.

    Preprocessing: pixels / 16, every pixel repeated to reach `size`, minus 0.305, divided by 0.376.

    Args:
        size: side of the images, a multiple of 8.
        holdout_fraction: share of the rows that become the hold-out.
        pad: training images are shifted by up to so many pixels.
    """

    size: int = Field(default=32, ge=SIDE)
    holdout_fraction: Share = 0.2
    pad: int = Field(default=0, ge=0)

    @field_validator("size")
    @classmethod
    def _multiple(cls, size: int) -> int:
        if size % SIDE:
            raise ValueError(f"digits size must be a multiple of {SIDE}, but got {size}.")
        return size

    def open(self) -> Dataset:
        """Returns the digits as (1, size, size) inputs of 10 classes."""
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        return array_dataset(
            self,
            "digits",
            images.reshape(-1, 1, SIDE, SIDE).astype(np.uint8),
            labels.astype(np.int64),
            n_classes=10,
            holdout_fraction=self.holdout_fraction,
            preprocessing=Preprocessing(16.0, (MEAN,), (STD,), repeat=self.size // SIDE),
            augmentation=Augmentation(pad=self.pad) if self.pad else None,
        )
