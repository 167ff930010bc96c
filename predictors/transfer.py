"""Transfer: a predictor for a new device from those of other devices and a handful of measurements."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.optimize import nnls

from predictors.base import (
    FloatArray,
    LayerFunction,
    Prediction,
    Predictor,
    Sources,
    State,
    check_fit_data,
    check_stds,
    not_fitted,
)
from predictors.features import Features, reference_rows
from predictors.gp import BlockGP
from predictors.model import calibrate, quantile
from predictors.regression import HeldOut, fold_of
from predictors.threads import one_thread
from search_spaces.space import Population, SearchSpace

TAILS = 4.0
"""Degrees of freedom of the labels' noise: measurements on phones have heavy tails."""
RIDGE = 0.3
RESIDUAL_ROWS = 16
SHARES = (0.0, 0.5, 1.0)


class Transfer(Predictor):
    """What other devices' predictors say, combined for a new device on few rows, and a residual model on top.

    All values are taken in logarithms if they are positive, and every source is standardised over the space. Two
    combinations are averaged: a Bayesian mixture over single sources, each as y = a + b s, b >= 0, with Student's t
    noise, weighted by its likelihood (few rows: which device is this most like); and non-negative ridge regression on
    all of them (many rows: the relevance idea of "Active Multi-Task Representation Learning via Lasso", with least
    squares' own sparsity, Slawski and Hein 2013). From 16 rows on, a Gaussian process on the space's own features
    learns the rest; how much of it counts is chosen by cross-validation.

    Args:
        space: of the populations.
        devices: name -> fitted predictor of the same metric on another device.
        layers: of the space's networks, for the residual's features; None for a space without costs.
    """

    kind = "transfer"

    def __init__(
        self, space: SearchSpace, *, devices: Mapping[str, Predictor], layers: LayerFunction | None = None
    ) -> None:
        super().__init__(space)
        if not devices:
            raise ValueError("devices must name at least one predictor of another device, but got none.")
        for name, predictor in devices.items():
            if predictor.space != space:
                raise ValueError(f"devices must be of one search space, but {name!r} is of another.")
        self.devices = dict(devices)
        self.layers = layers
        self.features = Features(space, ("costs", "one_hot") if layers is not None else ("counts",), layers=layers)
        self.log_ = False
        self._centre: FloatArray = np.zeros(0)
        self._scale: FloatArray = np.zeros(0)
        self.combination_: _Combination | None = None
        self.residual_: BlockGP | None = None
        self.share_ = 0.0
        self.noise_ = 0.0
        self.stretch_ = 1.0
        self.scores_: FloatArray = np.zeros(0)

    def fit(self, population: Population, values: FloatArray, *, stds: FloatArray | None = None) -> Transfer:
        """Returns self, fitted; see `Predictor.fit`."""
        rows, values = check_fit_data(self.space, population, values)
        check_stds(stds, len(rows))
        raw = self._raw(reference_rows(self.space))
        self.log_ = bool((values > 0).all() and (raw > 0).all())
        raw = np.log(raw) if self.log_ else raw
        self._centre, self._scale = raw.mean(axis=0), np.maximum(raw.std(axis=0), 1e-12)
        sources = self._sources(rows)
        y = np.log(values) if self.log_ else values
        group = np.unique(rows, axis=0, return_inverse=True)[1].ravel()
        x = self.features.matrix(rows)
        with one_thread(len(rows)):
            held, held_rest = np.full(len(y), y.mean()), np.zeros(len(y))
            fold = fold_of(group, 8)
            for i in range(int(fold.max()) + 1) if fold.max() > 0 else ():
                test = fold == i
                if (~test).sum() < 2:
                    continue
                part = _Combination.fit(sources[~test], y[~test])
                held[test] = part(sources[test])
                if len(y) >= RESIDUAL_ROWS:
                    rest = self._rest(x[~test], y[~test] - part(sources[~test]))
                    held_rest[test] = rest.predict(x[test])[0]
            self.combination_ = _Combination.fit(sources, y)
            errors = [float(np.abs(y - held - share * held_rest).mean()) for share in SHARES]
            self.share_ = SHARES[int(np.argmin(errors))] if len(y) >= RESIDUAL_ROWS else 0.0
            self.residual_ = self._rest(x, y - self.combination_(sources)) if self.share_ else None
        held = held + self.share_ * held_rest
        self.noise_ = max(float(np.sqrt(((y - held) ** 2).mean())), 1e-12)
        self.stretch_, self.scores_ = calibrate(HeldOut(held, np.full(len(y), self.noise_)), y)
        return self

    def _rest(self, x: FloatArray, rest: FloatArray) -> BlockGP:
        return BlockGP(self.features.widths, smooth=self.layers is not None, robust=True, iterations=25).fit(x, rest)

    def embed(self, population: Population) -> FloatArray:
        """Returns the sources' answers (n, k), each standardised over the population: what `choose_next` spreads over.

        Needs no fit, so that the first architectures to measure can be chosen with it.
        """
        raw = self._raw(population)
        raw = np.log(raw) if (raw > 0).all() else raw
        away = raw - raw.mean(axis=0)
        return np.asarray(away / np.maximum(raw.std(axis=0), 1e-12), dtype=np.float64)

    def _raw(self, population: Population) -> FloatArray:
        """Returns the sources' means (n, k)."""
        return np.stack([device.predict(population).mean for device in self.devices.values()], axis=1)

    def _sources(self, population: Population) -> FloatArray:
        """Returns the sources' standardised answers (n, k)."""
        raw = self._raw(population)
        if self.log_:
            raw = np.log(np.maximum(raw, 1e-300))
        return (raw - self._centre) / self._scale

    def _answer(self, population: Population) -> tuple[FloatArray, FloatArray]:
        """Returns mean and deviation of the (log) value, each (n,)."""
        if self.combination_ is None:
            raise not_fitted(self)
        rows = self.space.canonical(population)
        sources = self._sources(rows)
        mean = self.combination_(sources)
        variance = self.noise_**2 + self.combination_.disagreement(sources)
        if self.residual_ is not None:
            rest, doubt = self.residual_.predict(self.features.matrix(rows))
            mean = mean + self.share_ * rest
            variance = variance + (self.share_ * doubt) ** 2
        return mean, self.stretch_ * np.sqrt(variance)

    def predict(self, population: Population) -> Prediction:
        """Returns mean and deviation, each (n,); see `Predictor.predict`."""
        mean, std = self._answer(population)
        return Prediction(np.exp(mean), np.exp(mean) * std) if self.log_ else Prediction(mean, std)

    def ends(self, prediction: Prediction, level: float = 0.9) -> tuple[FloatArray, FloatArray]:
        """Returns ends, each (n,), from held-out errors; see `Predictor.ends`."""
        if not self.log_:
            half = prediction.std * quantile(self.scores_, level)
            return prediction.mean - half, prediction.mean + half
        factor = np.exp(prediction.std / prediction.mean * quantile(self.scores_, level))
        return prediction.mean / factor, prediction.mean * factor

    def relevance(self) -> dict[str, float]:
        """Returns how much each source counts, summing to 1, most relevant first."""
        if self.combination_ is None:
            raise not_fitted(self)
        weights = self.combination_.weights
        share = weights / max(float(weights.sum()), 1e-300)
        return {name: w for w, name in sorted(zip(share.tolist(), self.devices, strict=True), reverse=True)}

    def state(self) -> State:
        """Returns what was learned, the sources included; see `Predictor.state`."""
        if self.combination_ is None:
            raise not_fitted(self)
        combination = self.combination_
        arrays: dict[str, Any] = {
            "centre": self._centre,
            "scale": self._scale,
            "scores": self.scores_,
            "slopes": combination.slopes,
            "shares": combination.shares,
            "mixture": combination.mixture,
            "offsets": combination.offsets,
            "scalars": np.array([combination.offset, self.share_, self.noise_, self.stretch_]),
        }
        settings: dict[str, Any] = {"log": self.log_, "devices": [], "features": self.features.settings()}
        for i, (name, device) in enumerate(self.devices.items()):
            state = device.state()
            arrays |= {f"device{i}/{key}": array for key, array in state.arrays.items()}
            settings["devices"].append({"name": name, "kind": device.kind, "settings": dict(state.settings)})
        if self.residual_ is not None:
            arrays |= {f"residual/{key}": array for key, array in self.residual_.arrays().items()}
            settings["residual"] = self.residual_.settings()
        return State(arrays, settings)

    @classmethod
    def from_state(cls, space: SearchSpace, state: State, *, sources: Sources) -> Transfer:
        """Returns the fitted predictor; see `Predictor.from_state`."""
        kinds: Mapping[str, type[Predictor]] = importlib.import_module("predictors.files").KINDS
        settings, arrays = state.settings, state.arrays

        def under(prefix: str) -> dict[str, Any]:
            return {k.removeprefix(prefix): a for k, a in arrays.items() if k.startswith(prefix)}

        devices = {
            device["name"]: kinds[device["kind"]].from_state(
                space, State(under(f"device{i}/"), device["settings"]), sources=sources
            )
            for i, device in enumerate(settings["devices"])
        }
        costs = "costs" in settings["features"]["sets"]
        model = cls(space, devices=devices, layers=sources.layers if costs else None)
        model.features = Features.restore(space, settings["features"], sources=sources)
        model.log_ = bool(settings["log"])
        model._centre, model._scale, model.scores_ = arrays["centre"], arrays["scale"], arrays["scores"]
        offset, model.share_, model.noise_, model.stretch_ = (float(v) for v in arrays["scalars"])
        model.combination_ = _Combination(
            arrays["slopes"], arrays["offsets"], arrays["mixture"], arrays["shares"], offset
        )
        if "residual" in settings:
            model.residual_ = BlockGP.restore(under("residual/"), settings["residual"])
        return model


class _Combination:
    """Half a mixture of single sources, half a non-negative combination of all; (n, k) -> (n,)."""

    def __init__(
        self, slopes: FloatArray, offsets: FloatArray, mixture: FloatArray, shares: FloatArray, offset: float
    ) -> None:
        self.slopes, self.offsets, self.mixture, self.shares, self.offset = slopes, offsets, mixture, shares, offset

    @classmethod
    def fit(cls, sources: FloatArray, y: FloatArray) -> _Combination:
        level, spread = float(np.median(y)), max(float(y.std()), 1e-12)
        t = (y - level) / spread
        slopes, offsets, likelihood = _single(sources, t)
        mixture = np.exp(likelihood - likelihood.max())
        mixture /= mixture.sum()
        k = sources.shape[1]
        middle = sources.mean(axis=0)
        design = np.concatenate([sources - middle, np.sqrt(RIDGE) * np.eye(k)])
        shares, _ = nnls(design, np.concatenate([t - t.mean(), np.zeros(k)]))
        offset = float(t.mean() - middle @ shares)
        return cls(spread * slopes, level + spread * offsets, mixture, spread * shares, level + spread * offset)

    @property
    def weights(self) -> FloatArray:
        """How much each source moves the answer, (k,)."""
        return 0.5 * (self.mixture * self.slopes + self.shares)

    def __call__(self, sources: FloatArray) -> FloatArray:
        mixed = sources @ (self.mixture * self.slopes) + float(self.mixture @ self.offsets)
        return np.asarray(0.5 * (mixed + sources @ self.shares + self.offset), dtype=np.float64)

    def disagreement(self, sources: FloatArray) -> FloatArray:
        """Returns the variance (n,) of the single sources' answers, and of the two combinations'."""
        single = sources * self.slopes + self.offsets
        mean = single @ self.mixture
        within = ((single - mean[:, None]) ** 2) @ self.mixture
        between = (0.5 * (mean - sources @ self.shares - self.offset)) ** 2
        return np.asarray(0.5 * within + between, dtype=np.float64)


def _single(sources: FloatArray, t: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Returns slope, offset and log likelihood, each (k,), of t = offset + slope * source with Student's t noise.

    Maximum likelihood by reweighting (Lange et al. 1989), all sources at once; slopes are not negative, and the noise
    is at least 1 % of the labels' deviation.
    """
    n, k = sources.shape
    y = t[:, None]
    weight = np.ones((n, k))
    slope = middle = level = noise2 = np.ones(k)
    error = np.zeros((n, k))
    for _ in range(10):
        total = weight.sum(axis=0)
        middle, level = (weight * sources).sum(axis=0) / total, (weight * y).sum(axis=0) / total
        away = sources - middle
        slope = (weight * away * (y - level)).sum(axis=0) / np.maximum((weight * away**2).sum(axis=0), 1e-12)
        slope = np.maximum(slope, 0.0)
        error = y - level - slope * away
        noise2 = np.maximum((weight * error**2).sum(axis=0) / n, 1e-4)
        weight = (TAILS + 1) / (TAILS + error**2 / noise2)
    tail = np.log1p(error**2 / (TAILS * noise2)).sum(axis=0)
    return slope, level - slope * middle, -0.5 * n * np.log(noise2) - 0.5 * (TAILS + 1) * tail
