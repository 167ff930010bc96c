"""Gaussian process on features; with few rows an average over its hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictors.base import FloatArray, LayerFunction, Target
from predictors.features import Features
from predictors.gp import BlockGP
from predictors.gp_answers import GPAnswer
from predictors.left_out import left_out
from predictors.model import FeatureModel
from predictors.on_basis import Answer
from predictors.regression import HeldOut, Regressor, Sample, cross_fit
from search_spaces.space import SearchSpace

REFIT_ROWS = 160
FOLDS = 8


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
        self._held = HeldOut(np.zeros(0), np.zeros(0))

    def fit(self, sample: Sample) -> GPRegressor:
        """Returns self, fitted; known standard errors are added to the noise that is learned."""
        process = BlockGP(
            sample.widths, linear=self.linear, smooth=self.smooth, robust=True, rows=self.rows, freedom=self.freedom
        )
        process.fit(sample.x, sample.y, noise_std=sample.stds, noise_scale=1 / sample.weight)
        average = len(sample) <= self.few and self.n_draws > 0
        self.processes_ = process.draws(self.n_draws) if average else [process]
        if average and len(np.unique(sample.group)) == len(sample):
            self._held = left_out(self.processes_, sample.y)
        elif len(sample) <= REFIT_ROWS:
            self._held = self._refit(sample, process)
        else:
            self._held = self._leave_one_out(sample.y)
        return self

    def _refit(self, sample: Sample, process: BlockGP) -> HeldOut:
        """Returns k-fold answers of processes whose hyperparameters were chosen without the fold.

        With few rows the hyperparameters know each row too well for leave-one-out at fixed ones to be honest. The
        optimiser starts where that of all rows ended.
        """

        def make() -> _Refit:
            return _Refit(process)

        return cross_fit(make, sample, k=FOLDS)

    def _leave_one_out(self, labels: FloatArray) -> HeldOut:
        error, std = self.processes_[0].leave_one_out()
        return HeldOut(labels - error, std)

    def predict(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Returns mean and deviation of a new label, each (n,)."""
        return _Mixture([process.answer(noise=True) for process in self.processes_])(x)

    def on_basis(self, basis: FloatArray) -> Answer:
        """Returns `predict` of rows (n, p) whose features are rows @ basis."""
        return _Mixture([process.answer(noise=True, basis=basis) for process in self.processes_])

    def held_out(self) -> HeldOut:
        """Returns what the average, where there is one, says without each row, see `left_out`.

        Of one process and of repeated architectures: k-fold answers with hyperparameters of their own up to 160 rows,
        leave-one-out ones at fixed hyperparameters beyond.
        """
        return self._held

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Returns what was learned as arrays; features and centre once, as all draws share them."""
        parts = [process.arrays() for process in self.processes_]
        shared = {name: parts[0][name] for name in ("x", "centre")}
        own = {f"{name}.{i}": part[name] for i, part in enumerate(parts) for name in part if name not in shared}
        return {**shared, **own, "held_mean": self._held.mean, "held_std": self._held.std}

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
        model._held = HeldOut(arrays["held_mean"], arrays["held_std"])
        return model


class _Refit:
    """A process like another one, its hyperparameters chosen anew from where the other's ended."""

    def __init__(self, like: BlockGP) -> None:
        self.like = like
        self.process = BlockGP(
            like.widths, linear=like.linear, smooth=like.smooth, robust=True, iterations=12, freedom=like.freedom
        )

    def fit(self, sample: Sample) -> _Refit:
        self.process.fit(
            sample.x, sample.y, noise_std=sample.stds, noise_scale=1 / sample.weight, start=self.like.weights
        )
        return self

    def predict(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        return self.process.predict(x, noise=True)


class _Mixture:
    """An even mixture of normals, one per process."""

    def __init__(self, parts: list[GPAnswer]) -> None:
        self.parts = parts

    def __call__(self, rows: FloatArray) -> tuple[FloatArray, FloatArray]:
        answers = [part(rows) for part in self.parts]
        if len(answers) == 1:
            return answers[0]
        means, stds = np.stack([m for m, _ in answers]), np.stack([s for _, s in answers])
        return means.mean(axis=0), np.sqrt((stds**2).mean(axis=0) + means.var(axis=0))


class GaussianProcess(FeatureModel):
    """A Gaussian process with one weight per block of features as a predictor; see `BlockGP`.

    Args:
        space: of the populations.
        linear, smooth: parts of the process. freedom: prior deviation of a hyperparameter's logarithm.
        sets, target, layers, batch, features: see `FeatureModel`.
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
        features: Features | None = None,
    ) -> None:
        super().__init__(
            space,
            sets=sets,
            target=target,
            layers=layers,
            batch=batch,
            features=features,
            options={"linear": linear, "smooth": smooth, "freedom": freedom},
        )
