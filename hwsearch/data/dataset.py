"""Dataset: three splits that never overlap, each recorded by a digest of its rows and content."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hwsearch.data.augmentation import Augmentation
from hwsearch.data.preprocessing import Preprocessing


class Split(ABC):
    """Examples of one split, in a fixed order. `row` below means the position within the split.

    Args:
        name: `train`, `search` or `holdout`.
        indices: (n,) row of each example in the source.
        labels: (n,) class of each example.
        augmentation: applied by `shuffled` only.
    """

    def __init__(
        self,
        name: str,
        indices: NDArray[np.int64],
        labels: NDArray[np.int64],
        *,
        augmentation: Augmentation | None = None,
    ) -> None:
        if len(indices) != len(labels) or len(indices) == 0:
            raise ValueError(
                f"split {name!r} must have one label per index and at least one example, "
                f"but got {len(indices)} indices and {len(labels)} labels."
            )
        self.name, self.indices, self.labels = name, indices, labels
        self.augmentation = augmentation

    def __len__(self) -> int:
        return len(self.indices)

    @abstractmethod
    def inputs(self, rows: NDArray[np.intp], rng: np.random.Generator | None = None) -> Tensor:
        """Returns the network inputs of some rows, (len(rows), *input_shape) float32; augmented when `rng` is given."""

    @abstractmethod
    def content(self) -> Iterator[bytes]:
        """Yields the bytes that identify the examples, in order."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of row indices, labels and content, hexadecimal."""
        digest = hashlib.sha256(np.ascontiguousarray(self.indices, dtype="<i8").tobytes())
        digest.update(np.ascontiguousarray(self.labels, dtype="<i8").tobytes())
        for chunk in self.content():
            digest.update(chunk)
        return digest.hexdigest()

    def targets(self, rows: NDArray[np.intp]) -> Tensor:
        """Returns the classes of some rows, (len(rows),) int64."""
        return torch.from_numpy(self.labels[rows])

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields (inputs, classes) of all examples in order, not augmented; the last batch may be smaller."""
        _check_batch_size(batch_size)
        for start in range(0, len(self), batch_size):
            rows = np.arange(start, min(start + batch_size, len(self)))
            yield self.inputs(rows), self.targets(rows)

    def shuffled(
        self, batch_size: int, rng: np.random.Generator, *, shard: tuple[int, int] = (0, 1)
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields full batches of augmented (inputs, classes) in an order drawn from `rng`; the rest is dropped.

        Args:
            batch_size: of the whole batch.
            rng: the same for all shards: together they are the whole batches, each with its own augmentation.
            shard: (rank, size): every `size`-th example of a batch, from `rank`.

        Raises:
            ValueError: fewer examples than one batch.
        """
        _check_batch_size(batch_size)
        if batch_size > len(self):
            raise ValueError(
                f"batch_size must be at most the {len(self)} examples of the {self.name} split, but got {batch_size}."
            )
        order = rng.permutation(len(self))
        rank, size = shard
        own = rng if size == 1 else rng.spawn(size)[rank]
        for start in range(0, len(self) - batch_size + 1, batch_size):
            rows = order[start : start + batch_size][rank::size]
            yield self.inputs(rows, own), self.targets(rows)


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, but got {batch_size}.")


class ArraySplit(Split):
    """Examples held in memory as stored pixels, preprocessed batch by batch.

    Args:
        name: as for `Split`.
        indices: as for `Split`.
        labels: as for `Split`.
        images: (n, channels, height, width) uint8 or float32.
        preprocessing: from stored pixels to network inputs.
        augmentation: applied after preprocessing.
    """

    def __init__(
        self,
        name: str,
        indices: NDArray[np.int64],
        labels: NDArray[np.int64],
        *,
        images: NDArray[np.uint8] | NDArray[np.float32],
        preprocessing: Preprocessing,
        augmentation: Augmentation | None = None,
    ) -> None:
        super().__init__(name, indices, labels, augmentation=augmentation)
        if len(images) != len(indices):
            raise ValueError(f"split {name!r} must have one image per index, but got {len(images)} images.")
        self.images, self.preprocessing = images, preprocessing

    def inputs(self, rows: NDArray[np.intp], rng: np.random.Generator | None = None) -> Tensor:
        """Returns the network inputs of some rows, augmented when `rng` is given."""
        x = self.preprocessing(self.images[rows])
        return x if rng is None or self.augmentation is None else self.augmentation(x, rng)

    def content(self) -> Iterator[bytes]:
        """Yields type, shape and bytes of the stored pixels."""
        yield f"{self.images.dtype.str}{self.images.shape}".encode()
        yield np.ascontiguousarray(self.images).tobytes()


@dataclass(frozen=True)
class Dataset:
    """What a data description opens to.

    Args:
        name: of the source.
        input_shape: of one example, without batch.
        n_classes: labels are 0 .. n_classes - 1.
        train: the super-network learns from it; calibration uses it too.
        search: search-validation: scores candidates.
        holdout: never seen by training or search; nothing is selected on it.
        preprocessing: what a card tells about the way from the source to network inputs, JSON-able.
    """

    name: str
    input_shape: tuple[int, ...]
    n_classes: int
    train: Split
    search: Split
    holdout: Split
    preprocessing: Mapping[str, object]

    def __post_init__(self) -> None:
        for a, b in combinations((self.train, self.search, self.holdout), 2):
            shared = np.intersect1d(a.indices, b.indices)
            if len(shared):
                raise ValueError(
                    f"splits must not overlap, but {a.name} and {b.name} share {len(shared)} rows "
                    f"(the first: {shared[0]})."
                )
        for split in (self.train, self.search, self.holdout):
            if len(np.unique(split.indices)) != len(split):
                raise ValueError(f"split {split.name!r} must hold every row once, but a row occurs twice.")
            if split.labels.min() < 0 or split.labels.max() >= self.n_classes:
                raise ValueError(
                    f"labels of split {split.name!r} must be in 0 .. {self.n_classes - 1}, "
                    f"but got {split.labels.min()} .. {split.labels.max()}."
                )

    def digests(self) -> dict[str, str]:
        """Returns split name -> digest."""
        return {split.name: split.digest for split in (self.train, self.search, self.holdout)}

    def card(self) -> dict[str, object]:
        """Returns what an exported model's card says about its data: enough to score the hold-out again. JSON-able."""
        return {
            "name": self.name,
            "input_shape": list(self.input_shape),
            "n_classes": self.n_classes,
            "sizes": {split.name: len(split) for split in (self.train, self.search, self.holdout)},
            "sha256": self.digests(),
            "preprocessing": dict(self.preprocessing),
            "holdout_rows": self.holdout.indices.tolist(),
        }
