"""Exact costs behind the contract of predictors: nothing to learn, nothing uncertain."""

from __future__ import annotations

import numpy as np

from predictors.base import CostFunction, FloatArray, Prediction, Predictor, Sources, State, check_fit_data, check_stds
from search_spaces.space import Population, SearchSpace


class Analytic(Predictor):
    """Answers a cost that can be computed for any architecture (`macs`, `stored_bytes`, ...), with deviation 0.

    Args:
        space: of the populations.
        costs: population (n, g) -> values (n,), for example `lambda p: supernet.costs(p).macs`.
        chunk: rows computed at once, so that large populations need little memory.
    """

    kind = "analytic"

    def __init__(self, space: SearchSpace, *, costs: CostFunction, chunk: int = 10_000) -> None:
        super().__init__(space)
        if chunk < 1:
            raise ValueError(f"chunk must be at least 1, but got {chunk}.")
        self.costs = costs
        self.chunk = chunk

    def fit(self, population: Population, values: FloatArray, *, stds: FloatArray | None = None) -> Analytic:
        """Returns self; the data is checked and, as costs are exact, not used."""
        rows, _ = check_fit_data(self.space, population, values)
        check_stds(stds, len(rows))
        return self

    def predict(self, population: Population) -> Prediction:
        """Returns the exact values and zeros, each (n,). Needs no fit."""
        rows = self.space.canonical(population)
        mean = np.empty(len(rows))
        for start in range(0, len(rows), self.chunk):
            part = slice(start, start + self.chunk)
            values = np.asarray(self.costs(rows[part]), dtype=np.float64)
            if values.shape != mean[part].shape:
                raise ValueError(f"costs must return shape {mean[part].shape}, but got {values.shape}.")
            mean[part] = values
        return Prediction(mean, np.zeros(len(rows)))

    def state(self) -> State:
        """Returns the settings; there is nothing learned."""
        return State({}, {"chunk": self.chunk})

    @classmethod
    def from_state(cls, space: SearchSpace, state: State, *, sources: Sources) -> Analytic:
        """Returns the predictor for the cost function in `sources`."""
        if sources.costs is None:
            raise ValueError("an analytic predictor must be loaded with the cost function it wraps, but got none.")
        return cls(space, costs=sources.costs, chunk=int(state.settings["chunk"]))
