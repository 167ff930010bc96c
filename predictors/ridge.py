"""Ridge regression on features, its strength chosen by exact leave-one-out, with an exact posterior deviation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictors.base import FloatArray, LayerFunction, Target
from predictors.features import Features
from predictors.model import FeatureModel
from predictors.on_basis import LinearAnswer
from predictors.regression import HeldOut, Regressor, Sample, precision_weights
from search_spaces.space import SearchSpace

ALPHAS = tuple(float(a) for a in np.logspace(-4, 4, 33))


@dataclass(frozen=True)
class _RidgeFit:
    """What is known of y = y_mean + (x - x_mean) w: see `RidgeRegressor`."""

    x_mean: FloatArray  # (d,)
    y_mean: float
    weights: FloatArray  # (d,)
    directions: FloatArray  # (d, k) orthonormal: where the data says something
    shrink: FloatArray  # (k,) posterior less prior variance of a weight there, in units of the noise
    prior: float  # prior variance of a weight, in units of the noise
    noise: float
    weight_sum: float
    held_mean: FloatArray  # (n,)
    held_std: FloatArray  # (n,)


class RidgeRegressor(Regressor):
    """y = b + x w + noise, w ~ N(0, noise / alpha), b free.

    alpha is the one with the smallest sum of squared leave-one-out errors, which are exact and need one SVD:
    e_i / (1 - h_i) (Allen 1974, PRESS). The noise variance is the mean of squared standardised leave-one-out errors,
    so that the deviations are right on average; the deviation of a prediction is the exact posterior's plus noise
    (Bishop 2006, eq. 3.59, with a free intercept).

    Args:
        alphas: strengths to choose from, relative to the mean square of the singular values.
    """

    kind = "ridge"

    def __init__(self, *, alphas: Sequence[float] = ALPHAS) -> None:
        if not alphas or min(alphas) <= 0:
            raise ValueError(f"alphas must be positive, but got {list(alphas)}.")
        self.alphas = tuple(float(a) for a in alphas)
        self.alpha_: float | None = None
        self._fit: _RidgeFit | None = None

    def fit(self, sample: Sample) -> RidgeRegressor:
        """Returns self, fitted; known standard errors make rows count by their precision."""
        x, y = sample.x, sample.y
        weight = precision_weights(sample.stds, y) * sample.weight
        total = float(weight.sum())
        x_mean, y_mean = weight @ x / total, float(weight @ y / total)
        root = np.sqrt(weight)
        u, s, vt = np.linalg.svd((x - x_mean) * root[:, None], full_matrices=False)
        keep = s > 1e-9 * max(1e-300, float(s.max(initial=0.0)))
        u, s, vt = u[:, keep], s[keep], vt[keep]
        target = (y - y_mean) * root
        uy = u.T @ target
        scale = float((s**2).mean()) if len(s) else 1.0
        best = (np.inf, self.alphas[0], np.zeros(0), np.zeros(0))
        for alpha in self.alphas:
            filtered = s**2 / (s**2 + alpha * scale)
            room = np.maximum(1.0 - weight / total - (u**2) @ filtered, 1e-9)  # 1 - leverage
            loo = (target - u @ (filtered * uy)) / room
            score = float(loo @ loo)
            if score < best[0] * (1 - 1e-9):
                best = (score, alpha, loo, room)
        _, self.alpha_, loo, room = best
        alpha = self.alpha_ * scale
        # A leave-one-out error has variance noise / (1 - h): the row's own noise and that of a fit without it.
        noise = float((loo**2 * room).mean())
        self._fit = _RidgeFit(
            x_mean=x_mean,
            y_mean=y_mean,
            weights=vt.T @ (s / (s**2 + alpha) * uy),
            directions=vt.T,
            shrink=1.0 / (s**2 + alpha) - 1.0 / alpha,
            prior=1.0 / alpha,
            noise=noise,
            weight_sum=total,
            held_mean=y - loo / root,
            held_std=np.sqrt(noise / room),
        )
        return self

    def predict(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Returns mean and deviation of a new label, each (n,)."""
        fit = self._fit
        assert fit is not None
        away = x - fit.x_mean
        mean = fit.y_mean + away @ fit.weights
        along = away @ fit.directions
        variance = 1 + 1 / fit.weight_sum + fit.prior * np.einsum("ij,ij->i", away, away) + along**2 @ fit.shrink
        return mean, np.sqrt(fit.noise * np.maximum(variance, 1.0))

    def on_basis(self, basis: FloatArray) -> LinearAnswer:
        """Returns `predict` of rows (n, p) whose features are rows @ basis."""
        fit = self._fit
        assert fit is not None
        rows = np.concatenate([basis, -fit.x_mean[None, :]])  # the last one belongs to a column of ones
        along = rows @ fit.directions
        # prior |z|^2 + sum shrink (z v)^2 = prior |z - its part in the data's directions|^2 + that part's own length.
        root = np.concatenate(
            [
                np.sqrt(fit.prior) * (rows - along @ fit.directions.T),
                along * np.sqrt(np.maximum(fit.prior + fit.shrink, 0.0)),
            ],
            axis=1,
        )
        return LinearAnswer.of(
            basis @ fit.weights,
            fit.y_mean - float(fit.x_mean @ fit.weights),
            root[:-1],
            root[-1],
            floor=1 + 1 / fit.weight_sum,
            noise=fit.noise,
        )

    def held_out(self) -> HeldOut:
        """Returns exact leave-one-out answers."""
        assert self._fit is not None
        return HeldOut(self._fit.held_mean, self._fit.held_std)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Returns what was learned as arrays."""
        fit = self._fit
        assert fit is not None
        return {
            "x_mean": fit.x_mean,
            "weights": fit.weights,
            "directions": fit.directions,
            "shrink": fit.shrink,
            "held_mean": fit.held_mean,
            "held_std": fit.held_std,
            "scalars": np.array([fit.y_mean, fit.prior, fit.noise, fit.weight_sum]),
        }

    def settings(self) -> dict[str, Any]:
        """Returns the constructor's arguments and the chosen strength."""
        return {"alphas": list(self.alphas), "alpha": self.alpha_}

    @classmethod
    def restore(cls, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]) -> RidgeRegressor:
        """Returns the fitted regressor."""
        model = cls(alphas=settings["alphas"])
        model.alpha_ = float(settings["alpha"])
        y_mean, prior, noise, weight_sum = (float(v) for v in arrays["scalars"])
        model._fit = _RidgeFit(
            x_mean=arrays["x_mean"],
            y_mean=y_mean,
            weights=arrays["weights"],
            directions=arrays["directions"],
            shrink=arrays["shrink"],
            prior=prior,
            noise=noise,
            weight_sum=weight_sum,
            held_mean=arrays["held_mean"],
            held_std=arrays["held_std"],
        )
        return model


class Ridge(FeatureModel):
    """Ridge regression as a predictor; see `RidgeRegressor`.

    Args:
        space: of the populations.
        alphas: strengths to choose from.
        sets, target, layers, batch, features: see `FeatureModel`.
    """

    kind = "ridge"
    regressor_class = RidgeRegressor
    default_sets = ("one_hot",)

    def __init__(
        self,
        space: SearchSpace,
        *,
        alphas: Sequence[float] = ALPHAS,
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
            options={"alphas": list(alphas)},
        )
