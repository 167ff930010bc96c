"""Support vector regression with a Gaussian kernel: the usual peer of small-sample predictors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictors.base import FloatArray, LayerFunction, Target
from predictors.features import Features
from predictors.model import FeatureModel
from predictors.regression import HeldOut, Regressor, Sample, cross_fit, precision_weights
from search_spaces.space import SearchSpace

GRID = tuple((c, width) for c in (1.0, 10.0, 100.0) for width in (0.5, 2.0))
"""Penalties, for labels of deviation 1, and squared kernel widths, in mean squared distances."""


class SVRRegressor(Regressor):
    """epsilon-insensitive regression (Smola and Schoelkopf 2004); penalty and width by k-fold cross-validation.

    It gives no deviation of its own: that of its held-out errors stands for all predictions.

    Args:
        epsilon: width of the free tube, in deviations of the labels.
        k: number of folds.
    """

    kind = "svr"

    def __init__(self, *, epsilon: float = 0.02, k: int = 5) -> None:
        if epsilon < 0:
            raise ValueError(f"epsilon must be at least 0, but got {epsilon}.")
        self.epsilon, self.k = epsilon, k
        self._arrays: dict[str, NDArray[Any]] = {}

    def fit(self, sample: Sample) -> SVRRegressor:
        """Returns self, fitted."""
        best: tuple[float, tuple[float, float], HeldOut] | None = None
        for penalty, width in GRID:

            def make(penalty: float = penalty, width: float = width) -> _OneSVR:
                return _OneSVR(penalty, width, self.epsilon)

            held = cross_fit(make, sample, k=self.k)
            score = float(np.abs(held.mean - sample.y).mean())
            if best is None or score < best[0] * (1 - 1e-6):
                best = (score, (penalty, width), held)
        assert best is not None
        one = _OneSVR(*best[1], self.epsilon).fit(sample)
        spread = float(np.sqrt(((best[2].mean - sample.y) ** 2).mean()))
        self._arrays = {
            **one.learned,
            "held_mean": best[2].mean,
            "spread": np.array([spread]),
        }
        return self

    def predict(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Returns mean and deviation of a new label, each (n,)."""
        mean = _evaluate(x, self._arrays)
        return mean, np.full(len(mean), float(self._arrays["spread"][0]))

    def held_out(self) -> HeldOut:
        """Returns the answers of k-fold cross-validation."""
        held = self._arrays["held_mean"]
        return HeldOut(held, np.full(len(held), float(self._arrays["spread"][0])))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Returns support vectors, their coefficients and the scales."""
        return dict(self._arrays)

    def settings(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"epsilon": self.epsilon, "k": self.k}

    @classmethod
    def restore(cls, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]) -> SVRRegressor:
        """Returns the fitted regressor."""
        model = cls(epsilon=settings["epsilon"], k=settings["k"])
        names = ("vectors", "coefficients", "scalars", "held_mean", "spread")
        model._arrays = {name: arrays[name] for name in names}
        return model


class _OneSVR:
    """One penalty and width; the deviation is that of the labels, as nobody asks for it."""

    def __init__(self, penalty: float, width: float, epsilon: float) -> None:
        self.penalty, self.width, self.epsilon = penalty, width, epsilon
        self.learned: dict[str, NDArray[Any]] = {}

    def fit(self, sample: Sample) -> _OneSVR:
        from sklearn.svm import SVR

        level, spread = float(sample.y.mean()), max(float(sample.y.std()), 1e-300)
        distance2 = 2 * float(sample.x.var(axis=0).sum())  # mean squared distance of two rows
        gamma = 1.0 / max(self.width * distance2, 1e-300) if distance2 > 0 else 1.0
        weight = precision_weights(sample.stds, sample.y) * sample.weight
        model = SVR(C=self.penalty, gamma=gamma, epsilon=self.epsilon, tol=1e-4, max_iter=200_000)
        model.fit(sample.x, (sample.y - level) / spread, sample_weight=weight)
        self.learned = {
            "vectors": np.ascontiguousarray(model.support_vectors_, dtype=np.float64).reshape(-1, sample.x.shape[1]),
            "coefficients": np.ravel(model.dual_coef_).astype(np.float64),
            "scalars": np.array([gamma, float(model.intercept_[0]), level, spread]),
        }
        return self

    def predict(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        mean = _evaluate(x, self.learned)
        return mean, np.full(len(mean), float(self.learned["scalars"][3]))


def _evaluate(x: FloatArray, learned: Mapping[str, NDArray[Any]]) -> FloatArray:
    """Returns sum_i coefficient_i exp(-gamma |x - vector_i|^2) + intercept, in the unit of the labels, (n,)."""
    gamma, intercept, level, spread = (float(v) for v in learned["scalars"])
    vectors = learned["vectors"]
    distance2 = (x**2).sum(axis=1)[:, None] + (vectors**2).sum(axis=1) - 2 * x @ vectors.T
    kernel = np.exp(-gamma * np.maximum(distance2, 0.0))
    return np.asarray(level + spread * (kernel @ learned["coefficients"] + intercept), dtype=np.float64)


class SupportVectors(FeatureModel):
    """Support vector regression as a predictor; see `SVRRegressor`.

    Args:
        space: of the populations.
        epsilon: width of the free tube, in deviations of the labels.
        sets, target, layers, batch, features: see `FeatureModel`.
    """

    kind = "svr"
    regressor_class = SVRRegressor

    def __init__(
        self,
        space: SearchSpace,
        *,
        epsilon: float = 0.02,
        sets: Sequence[str] | None = None,
        target: Target = "raw",
        layers: LayerFunction | None = None,
        batch: int = 1,
        features: Features | None = None,
    ) -> None:
        super().__init__(
            space,
            sets=sets,
            target=target,
            layers=layers,
            batch=batch,
            features=features,
            options={"epsilon": float(epsilon)},
        )
