"""Look-up table: measured times of single operators, interpolated over shapes, summed, calibrated on whole nets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from predictors.amounts import FREE, operator_kind
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
from predictors.model import calibrate, quantile
from predictors.regression import HeldOut, fold_of, precision_weights
from search_spaces.layers import LayerSpec
from search_spaces.space import Population, SearchSpace

SHAPE = ("inputs", "outputs", "kernel", "groups", "positions_in", "positions")
NEIGHBOURS = 4
SLOPE_PRIOR = 0.1
"""Weight of the prior belief that an operator's time does not grow with its costs, in squared deviations."""
WHOLE_PRIOR = 0.01
"""Weight of the belief that a net takes the sum of its operators' times, in rows: errors of 5 % against a prior
deviation of 50 %."""
FOLDS = 8


@dataclass(frozen=True)
class OperatorTime:
    """One measured operator.

    Args:
        layer: its shape: the kind and sizes of a layer, all whole numbers.
        time: of one run, positive, in the unit of the predictor's values.
    """

    layer: LayerSpec
    time: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.time) and self.time > 0):
            raise ValueError(f"an operator's time must be positive, but got {self.time} for {self.layer.name!r}.")


class LookupTable(Predictor):
    """time = a + b x sum over layers of the operator's time, a and b not negative.

    An operator's time at a shape that was not measured: per kind, a power law in MACs and values moved (ridge
    regression of logarithms), plus what the nearest measured shapes lie above it, weighted by inverse squared distance
    of logarithmic sizes (Shepard 1968). A measured shape has its measured time. a and b, which hold what engines save
    by fusion and lose between operators, are fitted to whole nets, with a prior at b = 1, a = 0.

    Args:
        space: of the populations.
        layers: of the space's networks.
        table: measured operators: at least one of every kind that multiplies. Other kinds that are missing take no
            time; BatchNorm is folded.
    """

    kind = "lookup_table"

    def __init__(self, space: SearchSpace, *, layers: LayerFunction, table: Sequence[OperatorTime]) -> None:
        super().__init__(space)
        if not table:
            raise ValueError("table must hold at least one measured operator, but got none.")
        shapes = np.array([[getattr(entry.layer, name) for name in SHAPE] for entry in table], dtype=np.float64)
        kinds = tuple(operator_kind(entry.layer) for entry in table)
        self._set(layers, shapes, kinds, np.array([entry.time for entry in table]))

    def _set(self, layers: LayerFunction, shapes: FloatArray, kinds: tuple[str, ...], times: FloatArray) -> None:
        self.layers, self.shapes, self.kinds, self.times = layers, shapes, kinds, times
        self._laws: dict[str, _Law] = {}
        for kind in dict.fromkeys(kinds):
            rows = np.array([k == kind for k in kinds])
            self._laws[kind] = _Law(shapes[rows], times[rows])
        self.constant_, self.factor_, self.error_ = 0.0, 1.0, float("nan")
        self.scores_: FloatArray = np.zeros(0)

    def operators(self, population: Population) -> FloatArray:
        """Returns the sum of the operators' times (n,), before calibration."""
        rows = self.space.canonical(population)
        total = np.zeros(len(rows))
        for layer in self.layers(rows):
            if layer.kind in FREE:
                continue
            kind = operator_kind(layer)
            if kind not in self._laws:
                if np.any(np.asarray(layer.macs())):
                    raise ValueError(
                        f"table must hold an operator of kind {kind!r} (layer {layer.name!r}), but has none."
                    )
                continue
            sizes = [
                np.broadcast_to(np.asarray(getattr(layer, name), dtype=np.float64), (len(rows),)) for name in SHAPE
            ]
            shapes, place = np.unique(np.stack(sizes, axis=1), axis=0, return_inverse=True)
            total += self._laws[kind](shapes)[place.ravel()] * np.broadcast_to(layer.active, (len(rows),))
        return total

    def fit(self, population: Population, values: FloatArray, *, stds: FloatArray | None = None) -> LookupTable:
        """Returns self, calibrated on whole nets; see `Predictor.fit`. Values must be positive."""
        rows, values = check_fit_data(self.space, population, values)
        stds = check_stds(stds, len(rows))
        if (values <= 0).any():
            bad = int(np.flatnonzero(values <= 0)[0])
            raise ValueError(f"values must be positive for a look-up table, but row {bad} is {values[bad]:g}.")
        sums, weight = self.operators(rows), precision_weights(stds, values)
        fold = fold_of(np.unique(rows, axis=0, return_inverse=True)[1].ravel(), FOLDS)
        held = np.full(len(values), float(np.median(values)))
        for i in range(int(fold.max()) + 1) if fold.max() > 0 else ():
            seen = fold != i
            constant, factor = _calibrated(sums[seen], values[seen], weight[seen])
            held[~seen] = np.maximum(constant + factor * sums[~seen], 1e-300)
        self.constant_, self.factor_ = _calibrated(sums, values, weight)
        error = max(float(np.sqrt(np.mean((values / held - 1) ** 2))), 1e-9)
        stretch, self.scores_ = calibrate(HeldOut(held, error * held), values)
        self.error_ = error * stretch
        return self

    def predict(self, population: Population) -> Prediction:
        """Returns mean and deviation, each (n,); see `Predictor.predict`."""
        if np.isnan(self.error_):
            raise not_fitted(self)
        mean = self.constant_ + self.factor_ * self.operators(population)
        return Prediction(mean, self.error_ * mean)

    def ends(self, prediction: Prediction, level: float = 0.9) -> tuple[FloatArray, FloatArray]:
        """Returns ends, each (n,), from held-out errors; see `Predictor.ends`."""
        half = prediction.std * quantile(self.scores_, level)
        return prediction.mean - half, prediction.mean + half

    def state(self) -> State:
        """Returns the table and its calibration; see `Predictor.state`."""
        if np.isnan(self.error_):
            raise not_fitted(self)
        scalars = np.array([self.constant_, self.factor_, self.error_])
        arrays = {"shapes": self.shapes, "times": self.times, "scores": self.scores_, "scalars": scalars}
        return State(arrays, {"kinds": list(self.kinds)})

    @classmethod
    def from_state(cls, space: SearchSpace, state: State, *, sources: Sources) -> LookupTable:
        """Returns the calibrated table; see `Predictor.from_state`."""
        if sources.layers is None:
            raise ValueError("a look-up table must be loaded with the layers of the space's networks, but got none.")
        model = cls.__new__(cls)
        Predictor.__init__(model, space)
        arrays = state.arrays
        model._set(sources.layers, arrays["shapes"], tuple(state.settings["kinds"]), arrays["times"])
        model.constant_, model.factor_, model.error_ = (float(v) for v in arrays["scalars"])
        model.scores_ = arrays["scores"]
        return model


class _Law:
    """Times of one kind of operator by shape (m, 6)."""

    def __init__(self, shapes: FloatArray, times: FloatArray) -> None:
        self.logs, logs = np.log(shapes), np.log(times)
        costs = _log_costs(shapes)
        self.middle, self.level = costs.mean(axis=0), float(logs.mean())
        away = costs - self.middle
        gram = away.T @ away + SLOPE_PRIOR * np.eye(2)
        self.slopes = np.linalg.solve(gram, away.T @ (logs - self.level))
        self.rest = logs - self.level - away @ self.slopes

    def __call__(self, shapes: FloatArray) -> FloatArray:
        """Returns times (n,) of shapes (n, 6)."""
        law = self.level + (_log_costs(shapes) - self.middle) @ self.slopes
        distance2 = ((np.log(shapes)[:, None] - self.logs[None]) ** 2).sum(axis=2)
        near = np.argsort(distance2, axis=1, kind="stable")[:, :NEIGHBOURS]
        weight = 1 / (np.take_along_axis(distance2, near, axis=1) + 1e-9)
        rest = (weight * self.rest[near]).sum(axis=1) / weight.sum(axis=1)
        return np.asarray(np.exp(law + rest), dtype=np.float64)


def _log_costs(shapes: FloatArray) -> FloatArray:
    """Returns logarithms (m, 2) of MACs and of values moved (inputs, outputs, weights)."""
    inputs, outputs, kernel, groups, before, after = shapes.T
    weights = outputs * inputs / groups * kernel**2
    costs = np.stack([weights * after, inputs * before + outputs * after + weights], axis=1)
    return np.asarray(np.log(costs), dtype=np.float64)


def _calibrated(sums: FloatArray, values: FloatArray, weight: FloatArray) -> tuple[float, float]:
    """Returns constant and factor, not negative, of least relative error."""
    root = np.sqrt(weight)
    design = np.stack([np.ones(len(sums)), sums], axis=1) / values[:, None] * root[:, None]
    typical = float(np.median(values))
    prior = np.sqrt(WHOLE_PRIOR) * np.diag([1.0, float(np.median(sums))]) / typical
    wanted = np.concatenate([root, [0.0, prior[1, 1]]])
    solution, _ = nnls(np.concatenate([design, prior]), wanted)
    return float(solution[0]), float(solution[1])
