"""Exact losses: what an engine may know of an architecture without evaluating it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hwsearch.objectives import COST_METRICS, Objective
from search_spaces.space import Population
from search_spaces.supernet import Supernet


class ExactCosts:
    """Losses of a population that follow from exact costs alone; picklable and pure."""

    def __init__(self, supernet: Supernet, objectives: tuple[Objective, ...]) -> None:
        self._supernet, self._objectives = supernet, objectives

    def __call__(self, population: Population) -> NDArray[np.float64]:
        """Returns losses (n, m); NaN where a column needs an evaluation or a device."""
        out = np.full((len(population), len(self._objectives)), np.nan)
        if not any(o.metric in COST_METRICS for o in self._objectives):
            return out
        for start in range(0, len(population), 8192):
            costs = self._supernet.costs(population[start : start + 8192])
            for j, objective in enumerate(self._objectives):
                if objective.metric in COST_METRICS:
                    out[start : start + 8192, j] = objective.sign * getattr(costs, objective.metric)
        return out
