"""The contract of predictors: fitted on measured architectures, they answer mean and standard deviation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from search_spaces.layers import LayerSpec
from search_spaces.space import Population, SearchSpace

FloatArray = NDArray[np.float64]
LayerFunction = Callable[[Population], list[LayerSpec]]
"""Population (n, g) -> layers with sizes (n,), as `Supernet.layers`."""
Target = Literal["raw", "log", "rank"]
"""What of the values a model is fitted to."""
CostFunction = Callable[[Population], FloatArray]
"""Population (n, g) -> exact values (n,)."""


class ScoreFunction(Protocol):
    """Numbers of networks that are neither genes nor layer costs: population (n, g) -> (n, k), finite."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the k numbers."""
        ...

    @property
    def digest(self) -> str:
        """Equal only for functions that give equal numbers, whatever their columns; stored in files."""
        ...

    def only(self, columns: Sequence[str]) -> ScoreFunction:
        """Returns the function of some of the numbers it can give; raises ValueError for a name it does not know."""
        ...

    def __call__(self, population: Population) -> FloatArray:
        """Returns the numbers (n, k) of a population (n, g)."""
        ...


@dataclass(frozen=True)
class Prediction:
    """Mean and standard deviation, each (n,), in the unit of the fitted values."""

    mean: FloatArray
    std: FloatArray


@dataclass(frozen=True)
class Sources:
    """What a predictor computes with but does not store: functions of the space's networks.

    Args:
        layers: of any population, for features made from layer costs; None for a space without costs.
        costs: exact value of any population, for `Analytic`.
        scores: of any population, for predictors that read scores of networks.
    """

    layers: LayerFunction | None = None
    costs: CostFunction | None = None
    scores: ScoreFunction | None = None


@dataclass(frozen=True)
class State:
    """Everything learned: arrays by name, and settings that JSON can hold."""

    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


class Predictor(ABC):
    """Learns one metric of a space's architectures.

    Parameters come in the constructor; what is learned stays in attributes with a trailing `_` and travels as
    `State`, so that files need no pickle.

    Args:
        space: the genotypes it reads; its fingerprint is stored, and loading for another space is an error.
    """

    kind: ClassVar[str]
    """Name of the model in files and reports."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space

    @abstractmethod
    def fit(self, population: Population, values: FloatArray, *, stds: FloatArray | None = None) -> Predictor:
        """Returns self, fitted.

        Args:
            population: (n, g).
            values: (n,) finite, in any one unit.
            stds: (n,) known standard error of each value, NaN = unknown; None when none is known.

        Raises:
            ValueError: fewer than 2 rows, NaN or infinite values, all values equal, wrong shape.
        """

    @abstractmethod
    def predict(self, population: Population) -> Prediction:
        """Returns mean and standard deviation, each (n,), of a population (n, g).

        `std` is that of a new measurement: what the model does not know and the noise of one label together.

        Raises:
            RuntimeError: not fitted.
        """

    def interval(self, population: Population, level: float = 0.9) -> tuple[FloatArray, FloatArray]:
        """Returns lower and upper ends, each (n,), between which a new measurement falls with probability `level`.

        Raises:
            ValueError: level outside (0, 1).
        """
        return self.ends(self.predict(population), level)

    def ends(self, prediction: Prediction, level: float = 0.9) -> tuple[FloatArray, FloatArray]:
        """Returns `interval` of architectures that this predictor has already answered `prediction` for.

        By default the ends of a normal; predictors that kept held-out errors use them.

        Raises:
            ValueError: level outside (0, 1).
        """
        if not 0 < level < 1:
            raise ValueError(f"level must be between 0 and 1, but got {level}.")
        half = float(ndtri(0.5 + level / 2)) * prediction.std
        return prediction.mean - half, prediction.mean + half

    @abstractmethod
    def state(self) -> State:
        """Returns everything learned, for `predictors.files.save`.

        Raises:
            RuntimeError: not fitted.
        """

    @classmethod
    @abstractmethod
    def from_state(cls, space: SearchSpace, state: State, *, sources: Sources) -> Predictor:
        """Returns the fitted predictor that `state` came from.

        Raises:
            ValueError: a function in `sources` that the predictor needs is missing.
        """


def not_fitted(predictor: Predictor) -> RuntimeError:
    """Returns the error of using a predictor before `fit`."""
    return RuntimeError(f"predictor {predictor.kind!r} must be fitted before it is used, but it is not.")


def check_fit_data(space: SearchSpace, population: Population, values: FloatArray) -> tuple[Population, FloatArray]:
    """Returns canonical rows (n, g) and float64 values (n,).

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
    if (values == values[0]).all():
        raise ValueError(f"values must differ for a predictor to learn from, but all {len(values)} are {values[0]:g}.")
    return rows, values


def check_stds(stds: FloatArray | None, n: int) -> FloatArray:
    """Returns known standard errors (n,), NaN where unknown.

    Raises:
        ValueError: wrong shape, negative or infinite.
    """
    if stds is None:
        return np.full(n, np.nan)
    stds = np.asarray(stds, dtype=np.float64)
    if stds.shape != (n,):
        raise ValueError(f"stds must have shape ({n},), but got {stds.shape}.")
    if (stds < 0).any() or np.isinf(stds).any():
        raise ValueError("stds must be finite and not negative, or NaN where unknown.")
    return stds
