"""Roofline: layer costs divided by peak numbers of the device, which are fitted to its measurements."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from predictors.amounts import amounts
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
from predictors.features import reference_rows
from predictors.model import calibrate, quantile
from predictors.regression import HeldOut, fold_of, precision_weights
from predictors.threads import one_thread
from search_spaces.space import Population, SearchSpace

BYTES_PER_VALUE = 4.0
FOLDS = 8
ERROR = 0.05
"""Relative error that one deviation of the prior weighs against."""
FREEDOM = 2.0
"""Prior deviation of a peak number's logarithm."""


@dataclass(frozen=True)
class _Work:
    """What architectures ask of a device: MACs and bytes of each layer (layers, n), its kind, and launches (n,)."""

    macs: FloatArray
    moved: FloatArray
    kind: tuple[int, ...]
    launches: FloatArray

    def only(self, rows: np.ndarray) -> _Work:
        return _Work(self.macs[:, rows], self.moved[:, rows], self.kind, self.launches[rows])


class Roofline(Predictor):
    """time = constant + overhead x launches + sum over layers of max(MACs / rate of the kind, bytes / bandwidth).

    Williams et al. 2009, per layer. The rates (one per operator kind), the bandwidth, the overhead of a launch and the
    constant are fitted in logarithms to relative errors, with a normal prior around an even split of the time. Few
    numbers with a meaning: it needs the fewest measurements, extrapolates, and `peaks` can be read; where a device does
    something else than this formula, it stays wrong however much is measured.

    Args:
        space: of the populations.
        layers: of the space's networks.
        batch: examples per call.
    """

    kind = "roofline"

    def __init__(self, space: SearchSpace, *, layers: LayerFunction, batch: int = 1) -> None:
        super().__init__(space)
        if batch < 1:
            raise ValueError(f"batch must be at least 1, but got {batch}.")
        self.layers, self.batch = layers, batch
        rows = reference_rows(space)
        self.kinds = tuple(dict.fromkeys(a.kind for a in amounts(layers(rows), len(rows)) if np.any(a.launches)))
        self.logs_: FloatArray | None = None
        self.error_ = 0.0
        self.scores_: FloatArray = np.zeros(0)

    def fit(self, population: Population, values: FloatArray, *, stds: FloatArray | None = None) -> Roofline:
        """Returns self, fitted; see `Predictor.fit`. Values must be positive."""
        rows, values = check_fit_data(self.space, population, values)
        stds = check_stds(stds, len(rows))
        if (values <= 0).any():
            bad = int(np.flatnonzero(values <= 0)[0])
            raise ValueError(f"values must be positive for a roofline, but row {bad} is {values[bad]:g}.")
        work = self._work(rows)
        weight = np.sqrt(precision_weights(stds, values))
        middle = self._even_split(work, values)
        with one_thread():
            logs = self._solve(work, values, weight, middle, start=middle)
            fold = fold_of(np.unique(rows, axis=0, return_inverse=True)[1].ravel(), FOLDS)
            held = np.full(len(values), float(np.median(values)))
            for i in range(int(fold.max()) + 1) if fold.max() > 0 else ():
                seen, test = fold != i, fold == i
                part = self._solve(work.only(seen), values[seen], weight[seen], middle, start=logs)
                held[test] = self._times(work.only(test), part)[0]
        self.error_ = max(float(np.sqrt(np.mean((values / held - 1) ** 2))), 1e-9)
        stretch, self.scores_ = calibrate(HeldOut(held, self.error_ * held), values)
        self.error_ *= stretch
        self.logs_ = logs
        return self

    def _work(self, rows: Population) -> _Work:
        found = [a for a in amounts(self.layers(rows), len(rows)) if a.kind in self.kinds]
        launches = np.sum([a.launches for a in found], axis=0)
        moved = [BYTES_PER_VALUE * (self.batch * a.moved + a.weights) for a in found]
        kind = tuple(self.kinds.index(a.kind) for a in found)
        return _Work(self.batch * np.stack([a.macs for a in found]), np.stack(moved), kind, launches)

    def _even_split(self, work: _Work, values: FloatArray) -> FloatArray:
        """Returns logs (kinds + 3,) of time per MAC of each kind, per byte, per launch, and constant: the centre."""
        typical = float(np.median(values))
        macs, moved = float(work.macs.sum(axis=0).mean()), float(work.moved.sum(axis=0).mean())
        shares = [0.5 * typical / max(macs, 1.0)] * len(self.kinds)
        launch = 0.2 * typical / max(float(work.launches.mean()), 1.0)
        return np.log([*shares, 0.5 * typical / max(moved, 1.0), launch, 0.1 * typical])

    def _times(self, work: _Work, logs: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Returns times (n,) and their derivative by the logs (n, kinds + 3)."""
        k = len(self.kinds)
        cost = np.exp(logs)
        by_macs = work.macs * cost[list(work.kind)][:, None]
        by_bytes = work.moved * cost[k]
        busy = by_macs >= by_bytes
        slope = np.empty((work.macs.shape[1], k + 3))
        kinds = np.array(work.kind)
        for i in range(k):
            slope[:, i] = np.where(busy[kinds == i], by_macs[kinds == i], 0.0).sum(axis=0)
        slope[:, k] = np.where(busy, 0.0, by_bytes).sum(axis=0)
        slope[:, k + 1] = cost[k + 1] * work.launches
        slope[:, k + 2] = cost[k + 2]
        return slope.sum(axis=1), slope  # every term is proportional to its own number

    def _solve(
        self, work: _Work, values: FloatArray, weight: FloatArray, middle: FloatArray, *, start: FloatArray
    ) -> FloatArray:
        def residuals(logs: FloatArray) -> FloatArray:
            return np.concatenate(
                [weight * (self._times(work, logs)[0] / values - 1) / ERROR, (logs - middle) / FREEDOM]
            )

        def slopes(logs: FloatArray) -> FloatArray:
            share = weight[:, None] * self._times(work, logs)[1] / values[:, None] / ERROR
            return np.concatenate([share, np.eye(len(logs)) / FREEDOM])

        bounds = (middle - 15.0, middle + 15.0)
        found = least_squares(residuals, start, jac=slopes, bounds=bounds, loss="soft_l1", f_scale=3.0, max_nfev=100)
        return np.asarray(found.x, dtype=np.float64)

    def predict(self, population: Population) -> Prediction:
        """Returns mean and deviation, each (n,); see `Predictor.predict`."""
        if self.logs_ is None:
            raise not_fitted(self)
        rows = self.space.canonical(population)
        mean = self._times(self._work(rows), self.logs_)[0] if len(rows) else np.zeros(0)
        return Prediction(mean, self.error_ * mean)

    def ends(self, prediction: Prediction, level: float = 0.9) -> tuple[FloatArray, FloatArray]:
        """Returns ends, each (n,), from held-out errors; see `Predictor.ends`."""
        half = prediction.std * quantile(self.scores_, level)
        return prediction.mean - half, prediction.mean + half

    def peaks(self) -> dict[str, float]:
        """Returns the fitted numbers: MACs per unit of time by kind, bytes per unit, time of a launch, constant."""
        if self.logs_ is None:
            raise not_fitted(self)
        k, cost = len(self.kinds), np.exp(self.logs_)
        rates = {f"{kind} MACs per unit": float(1 / cost[i]) for i, kind in enumerate(self.kinds)}
        rest = {"launch": float(cost[k + 1]), "constant": float(cost[k + 2])}
        return {**rates, "bytes per unit": float(1 / cost[k]), **rest}

    def state(self) -> State:
        """Returns what was learned; see `Predictor.state`."""
        if self.logs_ is None:
            raise not_fitted(self)
        settings = {"batch": self.batch, "kinds": list(self.kinds), "error": self.error_}
        return State({"logs": self.logs_, "scores": self.scores_}, settings)

    @classmethod
    def from_state(cls, space: SearchSpace, state: State, *, sources: Sources) -> Roofline:
        """Returns the fitted predictor; see `Predictor.from_state`."""
        if sources.layers is None:
            raise ValueError("a roofline must be loaded with the layers of the space's networks, but got none.")
        model = cls(space, layers=sources.layers, batch=int(state.settings["batch"]))
        if list(model.kinds) != list(state.settings["kinds"]):
            raise ValueError(
                f"the layers must be of the operator kinds {list(state.settings['kinds'])} that the predictor was "
                f"fitted with, but they are {list(model.kinds)}."
            )
        model.logs_, model.scores_ = state.arrays["logs"], state.arrays["scores"]
        model.error_ = float(state.settings["error"])
        return model
