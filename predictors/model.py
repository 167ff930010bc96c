"""FeatureModel: features of a space, a transform of the values, and a regressor between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from scipy.stats import norm, t

from predictors.base import (
    FloatArray,
    LayerFunction,
    Prediction,
    Predictor,
    Sources,
    State,
    Target,
    check_fit_data,
    check_stds,
    not_fitted,
)
from predictors.features import Features
from predictors.normal_scores import NormalScores
from predictors.on_basis import Answer
from predictors.regression import HeldOut, Regressor, Sample
from predictors.threads import one_thread
from search_spaces.space import Population, SearchSpace

CHUNK = 2048
"""Rows of a population whose features are in memory at once."""


class FeatureModel(Predictor):
    """A regressor on a declared set of features.

    The target is the value, its logarithm or its normal score among the labels; an answer is the transform's inverse of
    the regressor's (of a logarithm: the median, which is what minimises relative errors). Deviations are scaled so that
    a normal interval of 90 % holds 90 % of held-out values; `ends` uses the held-out errors themselves (split conformal
    on leave-one-out errors, Vovk et al. 2005; here leave-one-out or k-fold, as the regressor does it).

    Args:
        space: of the populations.
        sets: feature sets, see `Features`.
        target: `raw`; `log` for positive values that are products rather than sums; `rank` where the order counts more
            than the values: see `NormalScores`.
        layers: of the space's networks; needed by features of costs.
        batch: examples per call, for roofline features.
        features: made before, instead of `sets`, `layers` and `batch`.
        options: of the regressor.
    """

    regressor_class: ClassVar[type[Regressor]]
    default_sets: ClassVar[tuple[str, ...]] = ("one_hot",)

    def __init__(
        self,
        space: SearchSpace,
        *,
        sets: Sequence[str] | None = None,
        target: Target = "raw",
        layers: LayerFunction | None = None,
        batch: int = 1,
        features: Features | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(space)
        if target not in ("raw", "log", "rank"):
            raise ValueError(f"target must be 'raw', 'log' or 'rank', but got {target!r}.")
        sets = self.default_sets if sets is None else sets
        self.features = Features(space, sets, layers=layers, batch=batch) if features is None else features
        self.target: Target = target
        self.options = dict(options or {})
        self.regressor()  # checks its options
        self.regressor_: Regressor | None = None
        self._of_hot: Answer | None = None
        self.ranks_: NormalScores | None = None
        self.stretch_ = 1.0
        self.scores_: FloatArray = np.zeros(0)

    def regressor(self) -> Regressor:
        """Returns a new regressor with this predictor's options."""
        return self.regressor_class(**self.options)

    def fit(self, population: Population, values: FloatArray, *, stds: FloatArray | None = None) -> Self:
        """Returns self, fitted; see `Predictor.fit`. A log target needs positive values."""
        rows, values = check_fit_data(self.space, population, values)
        stds = check_stds(stds, len(rows))
        return self.fit_features(self.features.matrix(rows), rows, values, stds)

    def fit_features(self, x: FloatArray, rows: Population, values: FloatArray, stds: FloatArray) -> Self:
        """Returns self, fitted to features that were computed already; arguments checked by the caller."""
        if self.target == "log" and (values <= 0).any():
            bad = int(np.flatnonzero(values <= 0)[0])
            raise ValueError(f"values must be positive for a log target, but row {bad} is {values[bad]:g}.")
        y, label_stds = values, stds
        self.ranks_ = None
        if self.target == "log":
            y, label_stds = np.log(values), stds / values
        elif self.target == "rank":
            self.ranks_ = NormalScores.of(values)
            y = self.ranks_.forward(values)
            label_stds = np.minimum(stds * float(np.ptp(y) / np.ptp(values)), 1.0)
        group = np.unique(rows, axis=0, return_inverse=True)[1].ravel()
        sample = Sample(x, y, self.features.widths, label_stds, np.ones(len(y)), group)
        with one_thread(len(sample)):
            self.regressor_ = self.regressor().fit(sample)
            self._of_hot = self._without_features(self.regressor_)
        held = self.regressor_.held_out()
        if self.ranks_ is not None:  # calibrated in the unit of the values, where intervals are asked for
            held, y = HeldOut(*self.ranks_.back_with_std(held.mean, held.std)), values
        self.stretch_, self.scores_ = calibrate(held, y)
        return self

    def predict(self, population: Population) -> Prediction:
        """Returns mean and deviation, each (n,); see `Predictor.predict`."""
        return self._in_unit(*self._answer(population))

    def ends(self, prediction: Prediction, level: float = 0.9) -> tuple[FloatArray, FloatArray]:
        """Returns the ends of intervals that held-out errors were in as often as `level` says; see `Predictor.ends`."""
        if self.target != "log":
            half = prediction.std * quantile(self.scores_, level)
            return prediction.mean - half, prediction.mean + half
        factor = np.exp(prediction.std / prediction.mean * quantile(self.scores_, level))
        return prediction.mean / factor, prediction.mean * factor

    def held_out(self) -> Prediction:
        """Returns what fits without each training row say of it, in the order of the rows: mean and deviation (n,)."""
        if self.regressor_ is None:
            raise not_fitted(self)
        held = self.regressor_.held_out()
        return self._in_unit(held.mean, held.std)

    def _in_unit(self, mean: FloatArray, std: FloatArray) -> Prediction:
        """Returns mean and stretched deviation, each (n,), in the unit of the values, of the regressor's."""
        if self.ranks_ is not None:
            mean, std = self.ranks_.back_with_std(mean, std)
        elif self.target == "log":
            mean = np.exp(mean)
            std = mean * std
        return Prediction(mean, std * self.stretch_)

    def _answer(self, population: Population) -> tuple[FloatArray, FloatArray]:
        """Returns mean and deviation of the transformed value, each (n,)."""
        if self.regressor_ is None:
            raise not_fitted(self)
        mean, std = np.empty(len(population)), np.empty(len(population))
        with one_thread():
            for start in range(0, len(population), CHUNK):
                part = slice(start, start + CHUNK)
                if self._of_hot is not None:
                    mean[part], std[part] = self._of_hot(self.features.hot(population[part]))
                else:
                    mean[part], std[part] = self.regressor_.predict(self.features.matrix(population[part]))
        return mean, std

    def _without_features(self, regressor: Regressor) -> Answer | None:
        """Returns the regressor's answer as a function of one-hot columns, where there is a quick one."""
        return None if self.features.on_hot is None else regressor.on_basis(self.features.on_hot)

    def state(self) -> State:
        """Returns what was learned; see `Predictor.state`."""
        if self.regressor_ is None:
            raise not_fitted(self)
        settings = {
            "features": self.features.settings(),
            "target": self.target,
            "options": self.options,
            "stretch": self.stretch_,
            "regressor": self.regressor_.settings(),
        }
        arrays = {**self.regressor_.arrays(), "scores": self.scores_}
        if self.ranks_ is not None:
            arrays |= {"rank_values": self.ranks_.values, "rank_scores": self.ranks_.scores}
        return State(arrays, settings)

    @classmethod
    def from_state(cls, space: SearchSpace, state: State, *, sources: Sources) -> Self:
        """Returns the fitted predictor; see `Predictor.from_state`."""
        settings = state.settings
        model = cls.__new__(cls)
        Predictor.__init__(model, space)
        model.features = Features.restore(space, settings["features"], sources=sources)
        model.target = settings["target"]
        model.options = dict(settings["options"])
        model.stretch_ = float(settings["stretch"])
        model.scores_ = state.arrays["scores"]
        model.ranks_ = None
        if model.target == "rank":
            model.ranks_ = NormalScores(state.arrays["rank_values"], state.arrays["rank_scores"])
        model.regressor_ = cls.regressor_class.restore(state.arrays, settings["regressor"])
        model._of_hot = model._without_features(model.regressor_)
        return model


def calibrate(held: HeldOut, y: FloatArray) -> tuple[float, FloatArray]:
    """Returns a factor for deviations and the ascending standardised held-out errors, after the factor, (n,).

    The factor makes the normal's 90 % interval hold 90 % of held-out values; with fewer than 30 rows it leans on the
    root mean square error, which needs fewer.
    """
    z = np.abs(y - held.mean) / np.maximum(held.std, 1e-300)
    if not np.isfinite(z).all():
        z = np.where(np.isfinite(z), z, 1.0)
    n = len(z)
    mean_square = float(np.sqrt((np.minimum(z, 4.0) ** 2).mean()))
    at_90 = float(np.quantile(z, min(1.0, np.ceil(0.9 * (n + 1)) / n), method="higher")) / norm.ppf(0.95)
    trust = min(1.0, n / 60)
    factor = float(np.exp(trust * np.log(max(at_90, 1e-12)) + (1 - trust) * np.log(max(mean_square, 1e-12))))
    if not z.any():
        factor = 1.0
    return factor, np.sort(z / factor)


def quantile(scores: FloatArray, level: float) -> float:
    """Returns the half-width, in deviations, of an interval of the given level.

    The ceil((n + 1) level)-th smallest held-out score; where n is too small to have one, Student's t with n - 1
    degrees of freedom.

    Raises:
        ValueError: level outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, but got {level}.")
    n = len(scores)
    place = int(np.ceil((n + 1) * level - 1e-9))
    if n >= 10 and place <= n:
        return float(scores[place - 1])
    return float(t.ppf(0.5 + level / 2, max(n - 1, 1)))
