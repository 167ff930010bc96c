"""DataSpec: the frozen description of a data set; it travels, and is opened where the data is used."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from hwsearch.data.augmentation import Augmentation
from hwsearch.data.dataset import ArraySplit, Dataset
from hwsearch.data.preprocessing import Preprocessing
from hwsearch.data.splits import limited, stratified_split
from hwsearch.errors import UserError

Share = Annotated[float, Field(gt=0.0, lt=1.0)]


class DataError(UserError):
    """Data that a description names is missing, incomplete or broken."""


class DataSpec(BaseModel, ABC):
    """Says which data to use and how to split it; small, hashable and picklable.

    Args:
        seed: of the splits.
        search_fraction: share of the rows that become search-validation.
        limit: use at most so many rows, classes in proportion.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(default=0, ge=0)
    search_fraction: Share = 0.2
    limit: int | None = Field(default=None, ge=1)

    @abstractmethod
    def open(self) -> Dataset:
        """Returns the data. Nothing is downloaded.

        Raises:
            DataError: a file or folder is missing or not what its format says.
        """


def array_dataset(
    spec: DataSpec,
    name: str,
    images: NDArray[np.uint8] | NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    n_classes: int,
    holdout_fraction: float,
    preprocessing: Preprocessing,
    augmentation: Augmentation | None = None,
) -> Dataset:
    """Returns the three stratified splits of arrays that come without a split of their own."""
    rows = limited(labels, spec.limit, spec.seed)
    shares = {"holdout": holdout_fraction, "search": spec.search_fraction}
    parts = {part: rows[at] for part, at in stratified_split(labels[rows], shares, spec.seed).items()}

    def split(part: str) -> ArraySplit:
        at = parts[part]
        return ArraySplit(
            part,
            at,
            labels[at],
            images=images[at],
            preprocessing=preprocessing,
            augmentation=augmentation if part == "train" else None,
        )

    side = images.shape[2] * preprocessing.repeat, images.shape[3] * preprocessing.repeat
    return Dataset(
        name=name,
        input_shape=(images.shape[1], *side),
        n_classes=n_classes,
        train=split("train"),
        search=split("search"),
        holdout=split("holdout"),
        preprocessing=preprocessing.to_dict(),
    )


def existing_folder(path: Path, what: str) -> Path:
    """Returns the folder, with `~` expanded.

    Raises:
        DataError: it does not exist; the line says that nothing is downloaded.
    """
    folder = path.expanduser()
    if not folder.is_dir():
        raise DataError(f"{what} must be a folder with the files, but {folder} is none (nothing is downloaded).")
    return folder
