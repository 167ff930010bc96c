"""Gaussian process on features; with few rows an average over its hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictors.base import FloatArray, LayerFunction
from predictors.gp import BlockGP
from predictors.model import FeatureModel, Target
from predictors.regression import HeldOut, Regressor, Sample
from search_spaces.space import SearchSpace


class GPRegressor(Regressor):
    """`BlockGP` with heavy-tailed noise; an average of `draws` of them where there are at most `few` rows.

    Args:
        linear, smooth: parts of the process.
        draws: from the posterior of the hyperparameters, when averaging.
        few: rows up to which it averages.
        rows: used to choose the hyperparameters.
        freedom: prior deviation of a hyperparameter's logarithm.
    """

    kind = "gp"

    def __init__(
        self,
        *,
        linear: bool = True,
        smooth: bool = True,
        draws: int = 12,
        few: int = 40,
        rows: int = 256,
        freedom: float = 1.5,
    ) -> None:
        self.linear, self.smooth = linear, smooth
        self.n_draws, self.few, self.rows, self.freedom = draws, few, rows, freedom
        self.processes_: list[BlockGP] = []
        self._labels: FloatArray = np.zeros(0)

    def fit(self, sample: Sample) -> GPRegressor:
        """Returns self, fitted; known standard errors are added to the noise that is learned."""
        process = BlockGP(
            sample.widths, linear=self.linear, smooth=self.smooth, robust=True, rows=self.rows, freedom=self.freedom
        )
        process.fit(sample.x, sample.y, noise_std=sample.stds, noise_scale=1 / sample.weight)
        average = len(sample) <= self.few and self.n_draws > 0
        self.processes_ = process.draws(self.n_draws) if average else [process]
        self._labels = sample.y
        return self

    def predict(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Returns mean and deviation of a new label, each (n,)."""
        answers = [process.predict(x, noise=True) for process in self.processes_]
        return _mixture(np.stack([m for m, _ in answers]), np.stack([s for _, s in answers]), None)

    def held_out(self) -> HeldOut:
        """Returns exact leave-one-out answers at the hyperparameters of all rows.

        With several draws, each counts by how badly it foresees the row: 1 / its leave-one-out density, cut at the
        root of their number times the mean (importance sampling leave-one-out, Vehtari et al. 2017, truncated).
        """
        errors, stds = zip(*(process.leave_one_out() for process in self.processes_), strict=True)
        error, std = np.stack(errors), np.stack(stds)  # (draws, n)
        log_ratio = 0.5 * (error / std) ** 2 + np.log(std)
        ratio = np.exp(log_ratio - log_ratio.max(axis=0))
        ratio = np.minimum(ratio, np.sqrt(len(ratio)) * ratio.mean(axis=0))
        mean, spread = _mixture(self._labels - error, std, ratio)
        return HeldOut(mean, spread)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Returns what was learned as arrays; features and centre once, as all draws share them."""
        parts = [process.arrays() for process in self.processes_]
        shared = {name: parts[0][name] for name in ("x", "centre")}
        own = {f"{name}.{i}": part[name] for i, part in enumerate(parts) for name in part if name not in shared}
        return {**shared, **own, "labels": self._labels}

    def settings(self) -> dict[str, Any]:
        """Returns the constructor's arguments and each process's."""
        return {
            "linear": self.linear,
            "smooth": self.smooth,
            "draws": self.n_draws,
            "few": self.few,
            "rows": self.rows,
            "freedom": self.freedom,
            "processes": [process.settings() for process in self.processes_],
        }

    @classmethod
    def restore(cls, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]) -> GPRegressor:
        """Returns the fitted regressor."""
        names = ("linear", "smooth", "draws", "few", "rows", "freedom")
        model = cls(**{name: settings[name] for name in names})
        for i, process in enumerate(settings["processes"]):
            own = {name.rsplit(".", 1)[0]: array for name, array in arrays.items() if name.endswith(f".{i}")}
            model.processes_.append(BlockGP.restore({**arrays, **own}, process))
        model._labels = arrays["labels"]
        return model


def _mixture(means: FloatArray, stds: FloatArray, ratio: FloatArray | None) -> tuple[FloatArray, FloatArray]:
    """Returns mean and deviation (n,) of mixtures of normals (draws, n), weighted evenly or by `ratio`."""
    if len(means) == 1:
        return means[0], stds[0]
    weight = np.full_like(means, 1 / len(means)) if ratio is None else ratio / ratio.sum(axis=0)
    mean = (weight * means).sum(axis=0)
    return mean, np.sqrt((weight * (stds**2 + (means - mean) ** 2)).sum(axis=0))


class GaussianProcess(FeatureModel):
    """A Gaussian process with one weight per block of features as a predictor; see `BlockGP`.

    Args:
        space: of the populations.
        linear, smooth: parts of the process. freedom: prior deviation of a hyperparameter's logarithm.
        sets, target, layers, batch: see `FeatureModel`.
    """

    kind = "gp"
    regressor_class = GPRegressor
    default_sets = ("counts", "ordinal")

    def __init__(
        self,
        space: SearchSpace,
        *,
        linear: bool = True,
        smooth: bool = True,
        freedom: float = 1.5,
        sets: Sequence[str] | None = None,
        target: Target = "raw",
        layers: LayerFunction | None = None,
        batch: int = 1,
    ) -> None:
        super().__init__(
            space,
            sets=sets,
            target=target,
            layers=layers,
            batch=batch,
            options={"linear": linear, "smooth": smooth, "freedom": freedom},
        )
