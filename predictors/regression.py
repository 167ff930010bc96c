"""The contract of regressors, matrices in and mean and deviation out, and their held-out errors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from predictors.base import FloatArray
from predictors.on_basis import Answer


@dataclass(frozen=True)
class Sample:
    """Training rows of a regressor.

    Args:
        x: (n, d) finite features.
        y: (n,) finite labels.
        widths: columns of each block of features; they sum to d.
        stds: (n,) known standard errors of the labels, NaN = unknown.
        weight: (n,) positive, how much a row counts beside its standard error; mean 1.
        group: (n,) number of the row's architecture: equal ones are held out together.
    """

    x: FloatArray
    y: FloatArray
    widths: tuple[int, ...]
    stds: FloatArray
    weight: FloatArray
    group: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.y)

    def only(self, rows: NDArray[Any]) -> Sample:
        """Returns the sample of some rows."""
        return Sample(self.x[rows], self.y[rows], self.widths, self.stds[rows], self.weight[rows], self.group[rows])

    @classmethod
    def of(
        cls, x: FloatArray, y: FloatArray, *, widths: Sequence[int] | None = None, stds: FloatArray | None = None
    ) -> Sample:
        """Returns a sample of features and labels, by default one block, no known errors, all rows distinct."""
        n = len(y)
        return cls(
            np.asarray(x, dtype=np.float64),
            np.asarray(y, dtype=np.float64),
            (x.shape[1],) if widths is None else tuple(widths),
            np.full(n, np.nan) if stds is None else stds,
            np.ones(n),
            np.arange(n),
        )


@dataclass(frozen=True)
class HeldOut:
    """For each training row, mean and deviation (of a new label) of a fit without it, each (n,)."""

    mean: FloatArray
    std: FloatArray


class Regressor(ABC):
    """Learns labels from features; deterministic."""

    kind: ClassVar[str]

    @abstractmethod
    def fit(self, sample: Sample) -> Regressor:
        """Returns self, fitted to at least two rows."""

    @abstractmethod
    def predict(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Returns mean and deviation of a new label, each (n,), of features (n, d)."""

    def on_basis(self, basis: FloatArray) -> Answer | None:
        """Returns `predict` as a function of rows (n, p), of which features are rows @ basis (p, d).

        None where nothing is gained over multiplying first.
        """
        return None

    @abstractmethod
    def held_out(self) -> HeldOut:
        """Returns what fits without each training row (or without its fold) say of it."""

    @abstractmethod
    def arrays(self) -> dict[str, NDArray[Any]]:
        """Returns what was learned as arrays."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Returns the constructor's arguments and learned scalars, JSON-able."""

    @classmethod
    @abstractmethod
    def restore(cls, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]) -> Regressor:
        """Returns the fitted regressor of `arrays()` and `settings()`."""


def fold_of(group: NDArray[np.intp], k: int) -> NDArray[np.intp]:
    """Returns the fold (n,) of each row: groups in a fixed random order dealt round to at most k folds."""
    names, member = np.unique(group, return_inverse=True)
    k = min(k, len(names))
    fold = np.empty(len(names), dtype=np.intp)
    fold[np.random.default_rng(len(names)).permutation(len(names))] = np.arange(len(names)) % k
    return fold[member.ravel()]


class Fits(Protocol):
    """What `cross_fit` needs of a regressor."""

    def fit(self, sample: Sample) -> Fits:
        """Returns self, fitted."""
        ...

    def predict(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Returns mean and deviation, each (n,)."""
        ...


def cross_fit(make: Callable[[], Fits], sample: Sample, *, k: int = 10) -> HeldOut:
    """Returns held-out answers by k-fold refitting; a single group is answered by the mean of the labels."""
    fold = fold_of(sample.group, k)
    mean, std = np.full(len(sample), float(sample.y.mean())), np.full(len(sample), float(sample.y.std()) + 1e-300)
    if fold.max() == 0:
        return HeldOut(mean, std)
    for i in range(int(fold.max()) + 1):
        test = fold == i
        train = sample.only(~test)
        if len(train) < 2:
            mean[test] = train.y.mean()
            continue
        mean[test], std[test] = make().fit(train).predict(sample.x[test])
    return HeldOut(mean, std)


def precision_weights(stds: FloatArray, values: FloatArray) -> FloatArray:
    """Returns a weight for each row (n,), mean 1, from the standard errors of its value, NaN = unknown.

    A label's variance is its known one plus what no repeat removes, taken as the smaller of the median known variance
    and 1 % of the labels' own variance: without it one lucky label would count for all. Unknown is the median.
    """
    if np.isnan(stds).all():
        return np.ones(len(stds))
    variance = np.where(np.isnan(stds), np.nanmedian(stds), stds) ** 2
    floor = min(float(np.median(variance)), 0.01 * float(values.var()))
    weight = 1.0 / (variance + max(floor, 1e-300))
    return np.asarray(weight / weight.mean(), dtype=np.float64)
