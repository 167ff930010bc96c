"""Exact losses: what an engine may know of an architecture without evaluating it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hwsearch.objectives import COST_METRICS, Objective
from search_spaces.space import Population
from search_spaces.supernet import Supernet


class ExactCosts:
    """Losses of a population, and violations of limits, that follow from exact costs alone; picklable and pure."""

    def __init__(
        self, supernet: Supernet, objectives: tuple[Objective, ...], *, limits: tuple[Objective, ...] = ()
    ) -> None:
        self._supernet, self._objectives, self._limits = supernet, objectives, limits

    def __call__(self, population: Population) -> NDArray[np.float64]:
        """Returns losses and violations (n, m + c); NaN where a column needs an evaluation or a device."""
        columns = [(o, 0.0) for o in self._objectives] + [(o, o.loss(o.limit or 0.0)) for o in self._limits]
        out = np.full((len(population), len(columns)), np.nan)
        if not any(o.metric in COST_METRICS for o, _ in columns):
            return out
        for start in range(0, len(population), 8192):
            costs = self._supernet.costs(population[start : start + 8192])
            for j, (objective, limit) in enumerate(columns):
                if objective.metric in COST_METRICS:
                    values = getattr(costs, objective.metric)
                    out[start : start + 8192, j] = objective.sign * values - limit
        return out
