"""Non-negative least squares: more work never takes less time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from predictors.base import FloatArray, LayerFunction, Target
from predictors.features import Features
from predictors.model import FeatureModel
from predictors.on_basis import LinearAnswer
from predictors.regression import HeldOut, Regressor, Sample, fold_of, precision_weights
from search_spaces.space import SearchSpace

ALPHAS = (1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True)
class _NonNegativeFit:
    low: FloatArray  # (d,) smallest value of each feature
    weights: FloatArray  # (d,) of one sign
    intercept: float
    used: NDArray[np.intp]  # columns with a weight
    root: FloatArray  # (u, u): cov of [used weights, intercept] = noise * root @ root.T
    noise: float
    held_mean: FloatArray
    held_std: FloatArray


class NonNegativeRegressor(Regressor):
    """y = b + x w with all weights of one sign: more work never takes less time (Lawson and Hanson 1974, NNLS).

    A ridge term keeps it finite with few rows; its strength, and the sign, are chosen by k-fold cross-validation. The
    deviation is that of least squares on the columns that got a weight, scaled so that held-out errors have it.

    Args:
        alphas: ridge strengths to choose from, relative to the features' mean square.
        k: number of folds.
    """

    kind = "non_negative"

    def __init__(self, *, alphas: Sequence[float] = ALPHAS, k: int = 10) -> None:
        if not alphas or min(alphas) <= 0:
            raise ValueError(f"alphas must be positive, but got {list(alphas)}.")
        self.alphas = tuple(float(a) for a in alphas)
        self.k = k
        self.alpha_: float | None = None
        self.sign_ = 1.0
        self._fit: _NonNegativeFit | None = None

    def fit(self, sample: Sample) -> NonNegativeRegressor:
        """Returns self, fitted."""
        weight = precision_weights(sample.stds, sample.y) * sample.weight
        sample = replace(sample, stds=np.full(len(sample), np.nan), weight=weight)
        fold = fold_of(sample.group, self.k)
        best = (np.inf, 1.0, self.alphas[0], sample.y)
        signs = (1.0, -1.0) if float(np.corrcoef(sample.x.sum(axis=1), sample.y)[0, 1]) >= 0 else (-1.0, 1.0)
        for sign in signs:
            for alpha in self.alphas:
                held = np.full(len(sample), float(sample.y.mean()))
                for i in range(int(fold.max()) + 1) if fold.max() > 0 else ():
                    low, w, b = self._solve(sample.only(fold != i), sign, alpha)
                    held[fold == i] = b + (sample.x[fold == i] - low) @ w
                score = float(weight @ (held - sample.y) ** 2)
                if score < best[0] * (1 - 1e-9):
                    best = (score, sign, alpha, held)
            if best[0] < 0.25 * float(weight @ (sample.y - sample.y.mean()) ** 2):
                break  # the likelier sign explains most: the other cannot
        _, self.sign_, self.alpha_, held = best
        low, w, b = self._solve(sample, self.sign_, self.alpha_)
        used = np.flatnonzero(w)
        design = np.concatenate([sample.x[:, used] - low[used], np.ones((len(sample), 1))], axis=1)
        precision = (design * weight[:, None]).T @ design
        ridge = self.alpha_ * self._scale(sample.x - low)
        precision[np.arange(len(used)), np.arange(len(used))] += ridge
        values, vectors = np.linalg.eigh(precision)
        root = vectors / np.sqrt(np.maximum(values, 1e-9 * values.max()))
        spread = 1 + ((design @ root) ** 2).sum(axis=1)
        noise = float(((held - sample.y) ** 2 * weight / spread).mean())
        self._fit = _NonNegativeFit(low, w, b, used, root, noise, held, np.sqrt(noise * spread / weight))
        return self

    @staticmethod
    def _scale(x: FloatArray) -> float:
        return max(float((x**2).sum(axis=0).mean()), 1e-300)

    def _solve(self, sample: Sample, sign: float, alpha: float) -> tuple[FloatArray, FloatArray, float]:
        """Returns lowest features (d,), weights (d,) and intercept; the intercept is free and not shrunk."""
        low = sample.x.min(axis=0)
        x = sample.x - low
        root = np.sqrt(sample.weight)
        base = sign * sample.y.min() if sign > 0 else -sample.y.max()
        labels = sign * sample.y - base  # all >= 0, so that a non-negative intercept loses nothing
        d = x.shape[1]
        # The intercept as two columns of opposite sign is free; the ridge rows act on the weights only.
        ones = root[:, None]
        design = np.concatenate([x * root[:, None], ones, -ones], axis=1)
        ridge = np.concatenate([np.sqrt(alpha * self._scale(x)) * np.eye(d), np.zeros((d, 2))], axis=1)
        solution, _ = nnls(
            np.concatenate([design, ridge]), np.concatenate([labels * root, np.zeros(d)]), maxiter=30 * (d + 2)
        )
        return low, sign * solution[:d], sign * float(base + solution[d] - solution[d + 1])

    def predict(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Returns mean and deviation of a new label, each (n,)."""
        fit = self._fit
        assert fit is not None
        away = x[:, fit.used] - fit.low[fit.used]
        mean = fit.intercept + away @ fit.weights[fit.used]
        spread = away @ fit.root[:-1] + fit.root[-1]
        return mean, np.sqrt(fit.noise * (1 + np.einsum("ij,ij->i", spread, spread)))

    def on_basis(self, basis: FloatArray) -> LinearAnswer:
        """Returns `predict` of rows (n, p) whose features are rows @ basis."""
        fit = self._fit
        assert fit is not None
        used, low = basis[:, fit.used], fit.low[fit.used]
        weights, root = fit.weights[fit.used], fit.root[:-1]
        return LinearAnswer.of(
            used @ weights,
            fit.intercept - float(low @ weights),
            used @ root,
            fit.root[-1] - low @ root,
            floor=1.0,
            noise=fit.noise,
        )

    def held_out(self) -> HeldOut:
        """Returns the answers of k-fold cross-validation."""
        assert self._fit is not None
        return HeldOut(self._fit.held_mean, self._fit.held_std)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Returns what was learned as arrays."""
        fit = self._fit
        assert fit is not None
        return {
            "low": fit.low,
            "weights": fit.weights,
            "used": fit.used,
            "root": fit.root,
            "held_mean": fit.held_mean,
            "held_std": fit.held_std,
            "scalars": np.array([fit.intercept, fit.noise]),
        }

    def settings(self) -> dict[str, Any]:
        """Returns the constructor's arguments and what was chosen."""
        return {"alphas": list(self.alphas), "k": self.k, "alpha": self.alpha_, "sign": self.sign_}

    @classmethod
    def restore(cls, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]) -> NonNegativeRegressor:
        """Returns the fitted regressor."""
        model = cls(alphas=settings["alphas"], k=settings["k"])
        model.alpha_, model.sign_ = float(settings["alpha"]), float(settings["sign"])
        intercept, noise = (float(v) for v in arrays["scalars"])
        model._fit = _NonNegativeFit(
            arrays["low"],
            arrays["weights"],
            intercept,
            arrays["used"],
            arrays["root"],
            noise,
            arrays["held_mean"],
            arrays["held_std"],
        )
        return model


class NonNegative(FeatureModel):
    """Non-negative least squares as a predictor; see `NonNegativeRegressor`.

    Args:
        space: of the populations.
        alphas: ridge strengths to choose from.
        sets, target, layers, batch, features: see `FeatureModel`.
    """

    kind = "non_negative"
    regressor_class = NonNegativeRegressor
    default_sets = ("ordinal", "one_hot")

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
