"""The contract of predictors: fitted on measured architectures, they answer mean and standard deviation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search_spaces.space import Population, SearchSpace

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Prediction:
    """Mean and standard deviation, each (n,), in the unit of the fitted values."""

    mean: FloatArray
    std: FloatArray


class Predictor(ABC):
    """Learns one metric of a space's architectures.

    Args:
        space: the genotypes it reads; its fingerprint is stored, and loading for another space is an error.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space

    @abstractmethod
    def fit(self, population: Population, values: FloatArray) -> Predictor:
        """Returns self, fitted.

        Args:
            population: (n, g).
            values: (n,) finite, in any one unit.

        Raises:
            ValueError: fewer than 2 rows, NaN or infinite values, wrong shape.
        """

    @abstractmethod
    def predict(self, population: Population) -> Prediction:
        """Returns mean and standard deviation, each (n,), of a population (n, g).

        Raises:
            RuntimeError: not fitted.
        """


def check_fit_data(space: SearchSpace, population: Population, values: FloatArray) -> tuple[Population, FloatArray]:
    """Returns canonical rows and float64 values.

    Raises:
        ValueError: see `Predictor.fit`.
    """
    rows = space.canonical(population)
    values = np.asarray(values, dtype=np.float64)
    if values.shape != (len(rows),):
        raise ValueError(f"values must have shape ({len(rows)},), but got {values.shape}.")
    if len(rows) < 2:
        raise ValueError(f"a predictor must be fitted on at least 2 rows, but got {len(rows)}.")
    if not np.isfinite(values).all():
        bad = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(f"values must be finite, but row {bad} is {values[bad]}.")
    return rows, values
