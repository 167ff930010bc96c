"""A data set seen through a function of its inputs: another resolution, for a network that reads one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hwsearch.data.dataset import Dataset, Split

Prepare = Callable[[Tensor], Tensor]


class PreparedSplit(Split):
    """Another split, every batch of whose inputs goes through a function.

    Args:
        base: the split.
        prepare: inputs (batch, ...) -> inputs.
    """

    def __init__(self, base: Split, prepare: Prepare) -> None:
        super().__init__(base.name, base.indices, base.labels, augmentation=base.augmentation)
        self.base, self.prepare = base, prepare

    def inputs(self, rows: NDArray[np.intp], rng: np.random.Generator | None = None) -> Tensor:
        """Returns the prepared inputs of some rows; augmented before that when `rng` is given."""
        return self.prepare(self.base.inputs(rows, rng))

    def content(self) -> Iterator[bytes]:
        """Yields the base's content: the examples are the same."""
        yield from self.base.content()


def prepared(dataset: Dataset, prepare: Prepare) -> Dataset:
    """Returns the data set with all inputs prepared; rows, labels and digests stay."""
    train, search, holdout = (PreparedSplit(s, prepare) for s in (dataset.train, dataset.search, dataset.holdout))
    shape = tuple(train.inputs(np.arange(1)).shape[1:])
    return replace(dataset, input_shape=shape, train=train, search=search, holdout=holdout)
