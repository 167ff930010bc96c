"""Ridge regression on features, its strength chosen by exact leave-one-out, with an exact posterior deviation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from predictors.base import FloatArray, Prediction, Predictor, Sources, State, check_fit_data, check_stds, not_fitted
from predictors.features import Features
from search_spaces.space import Population, SearchSpace

ALPHAS = tuple(float(a) for a in np.logspace(-4, 4, 33))
CHUNK = 16_384
"""Rows of a population whose features are in memory at once."""


@dataclass(frozen=True)
class _Fit:
    """x_mean (d,), y_mean, weights (d,), root (d, k) with cov = root @ root.T + rest * (I - P), and noise variance."""

    x_mean: FloatArray
    y_mean: float
    weights: FloatArray
    directions: FloatArray  # (d, k) orthonormal: the directions that the data has seen
    shrink: FloatArray  # (k,) posterior over prior standard deviation, less one, in these directions
    prior: float  # prior variance of a weight, in units of the noise variance
    noise: float
    weight_sum: float


class Ridge(Predictor):
    """y = b + x w + noise, w ~ N(0, noise / alpha), b free.

    alpha is the one with the smallest sum of squared leave-one-out errors, which are exact and need one SVD:
    e_i / (1 - h_i) (Allen 1974, PRESS). The noise variance is the mean of squared standardised leave-one-out errors,
    so that the deviations are right on average; the deviation of a prediction is the exact posterior's plus noise
    (Bishop 2006, eq. 3.59).

    Args:
        space: of the populations.
        blocks: feature blocks.
        alphas: strengths to choose from, relative to the mean square of the centred features.
    """

    kind = "ridge"

    def __init__(
        self, space: SearchSpace, *, blocks: Sequence[str] = ("one_hot",), alphas: Sequence[float] = ALPHAS
    ) -> None:
        super().__init__(space)
        if not alphas or min(alphas) <= 0:
            raise ValueError(f"alphas must be positive, but got {list(alphas)}.")
        self.features = Features(space, blocks)
        self.alphas = tuple(alphas)
        self.alpha_: float | None = None
        self.loo_: FloatArray | None = None
        self._fit: _Fit | None = None

    def fit(self, population: Population, values: FloatArray, *, stds: FloatArray | None = None) -> Ridge:
        """Returns self, fitted; see `Predictor.fit`. Known standard errors make rows count by their precision."""
        rows, values = check_fit_data(self.space, population, values)
        weight = precision_weights(check_stds(stds, len(rows)), values)
        x = self.features.matrix(rows)
        total = float(weight.sum())
        x_mean, y_mean = weight @ x / total, float(weight @ values / total)
        root = np.sqrt(weight)
        u, s, vt = np.linalg.svd((x - x_mean) * root[:, None], full_matrices=False)
        keep = s > 1e-9 * max(1.0, float(s.max(initial=0.0)))
        u, s, vt = u[:, keep], s[keep], vt[keep]
        target = (values - y_mean) * root
        uy = u.T @ target
        scale = float((s**2).mean()) if len(s) else 1.0
        best: tuple[float, float, FloatArray, FloatArray] | None = None
        for alpha in self.alphas:
            filtered = s**2 / (s**2 + alpha * scale)
            leverage = weight / total + (u**2) @ filtered
            room = np.maximum(1.0 - leverage, 1e-9)
            loo = (target - u @ (filtered * uy)) / room
            score = float(loo @ loo)
            if best is None or score < best[0] * (1 - 1e-9):
                best = (score, alpha, loo, room)
        assert best is not None
        _, self.alpha_, loo, room = best
        alpha = self.alpha_ * scale
        # A leave-one-out error has variance noise / (1 - h): the row's own noise and that of a fit without it.
        noise = float((loo**2 * room).mean())
        self.loo_ = loo / root
        self._fit = _Fit(
            x_mean=x_mean,
            y_mean=y_mean,
            weights=vt.T @ (s / (s**2 + alpha) * uy),
            directions=vt.T,
            shrink=1.0 / (s**2 + alpha) - 1.0 / alpha,
            prior=1.0 / alpha,
            noise=noise,
            weight_sum=total,
        )
        return self

    def predict(self, population: Population) -> Prediction:
        """Returns mean and deviation, each (n,); see `Predictor.predict`."""
        fit = self._fit
        if fit is None:
            raise not_fitted(self)
        mean, variance = np.empty(len(population)), np.empty(len(population))
        for start in range(0, len(population), CHUNK):
            part = slice(start, start + CHUNK)
            x = self.features.matrix(population[part]) - fit.x_mean
            mean[part] = fit.y_mean + x @ fit.weights
            along = x @ fit.directions
            variance[part] = 1 + 1 / fit.weight_sum + fit.prior * (x**2).sum(axis=1) + along**2 @ fit.shrink
        return Prediction(mean, np.sqrt(fit.noise * np.maximum(variance, 1.0)))

    def state(self) -> State:
        """Returns what was learned; see `Predictor.state`."""
        fit = self._fit
        if fit is None or self.alpha_ is None or self.loo_ is None:
            raise not_fitted(self)
        arrays = {
            "x_mean": fit.x_mean,
            "weights": fit.weights,
            "directions": fit.directions,
            "shrink": fit.shrink,
            "loo": self.loo_,
            "scalars": np.array([fit.y_mean, fit.prior, fit.noise, fit.weight_sum]),
        }
        return State(arrays, {"blocks": list(self.features.names), "alphas": list(self.alphas), "alpha": self.alpha_})

    @classmethod
    def from_state(cls, space: SearchSpace, state: State, *, sources: Sources) -> Ridge:
        """Returns the fitted predictor; see `Predictor.from_state`."""
        model = cls(space, blocks=state.settings["blocks"], alphas=state.settings["alphas"])
        arrays = state.arrays
        y_mean, prior, noise, weight_sum = (float(v) for v in arrays["scalars"])
        model.alpha_ = float(state.settings["alpha"])
        model.loo_ = arrays["loo"]
        model._fit = _Fit(
            x_mean=arrays["x_mean"],
            y_mean=y_mean,
            weights=arrays["weights"],
            directions=arrays["directions"],
            shrink=arrays["shrink"],
            prior=prior,
            noise=noise,
            weight_sum=weight_sum,
        )
        return model


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
