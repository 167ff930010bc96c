"""A synthetic elastic network: conditional genes, interactions within stages, and a front that is known exactly."""

from __future__ import annotations

from functools import reduce

import numpy as np
from numpy.typing import NDArray

from hwsearch import pareto
from hwsearch.tasks.task import Task
from search_spaces.genes import Condition, Gene
from search_spaces.space import Population, SearchSpace

FloatArray = NDArray[np.float64]

DEPTHS, KERNELS, WIDTHS = (1, 2, 3), (3, 5, 7), (3, 4, 6)


class Stage:
    """Error and cost of every setting of one stage: tables over its canonical genotypes.

    The cost is a whole number, so that sums of costs are exact. The value grows with cost, saturates, and has
    interactions between neighbouring blocks that no additive model holds.
    """

    def __init__(self, index: int, rng: np.random.Generator) -> None:
        genes = [Gene(f"stage{index}.depth", DEPTHS)]
        for block in range(3):
            when = () if block == 0 else (Condition(f"stage{index}.depth", DEPTHS[block:]),)
            genes.append(Gene(f"stage{index}.block{block}.kernel", KERNELS, active_when=when))
            genes.append(Gene(f"stage{index}.block{block}.width", WIDTHS, active_when=when))
        self.space = SearchSpace(genes)
        rows = self.space.enumerate()
        kernel, width, active = rows[:, 1::2], rows[:, 2::2], self.space.active(rows)[:, 1::2]
        weight = rng.uniform(0.5, 1.5, 3) * (1.0, 0.7, 0.5)
        gain = rng.uniform(0.0, 0.5, (3, 3)).cumsum(axis=1)
        growth = np.sqrt(np.array(WIDTHS, dtype=float))
        value = (active * weight * (gain[np.arange(3), kernel] + growth[width])).sum(axis=1)
        pair = rng.normal(0.0, 0.15, (2, 3, 3))
        for block in range(2):
            value += active[:, block + 1] * pair[block, kernel[:, block], kernel[:, block + 1]]
        taps, channels = np.array(KERNELS), np.array(WIDTHS)
        scale = int(rng.integers(2, 6))
        cost = (active * channels[width] * (40 + scale * taps[kernel])).sum(axis=1)
        self.columns = np.stack([-value, cost.astype(float)], axis=1)  # (a, 2)
        self._place = np.zeros(int(np.prod(self.space.n_choices)), dtype=np.intp)
        self._place[self._code(rows)] = np.arange(len(rows))

    def _code(self, rows: Population) -> NDArray[np.intp]:
        return np.asarray(
            np.ravel_multi_index(tuple(rows.T.astype(np.intp)), tuple(self.space.n_choices)), dtype=np.intp
        )

    def __call__(self, rows: Population) -> FloatArray:
        """Returns minus value and cost (n, 2)."""
        return np.asarray(self.columns[self._place[self._code(rows)]])


class SyntheticLosses:
    """Error in percent and cost of the network: the stages' columns added, the error then saturates. Picklable."""

    def __init__(self, stages: list[Stage], low: float, span: float) -> None:
        self._stages, self._low, self._span = stages, low, span

    def __call__(self, population: Population) -> FloatArray:
        """Returns losses (n, 2)."""
        parts, start = [], 0
        for stage in self._stages:
            parts.append(stage(population[:, start : start + stage.space.n_genes]))
            start += stage.space.n_genes
        return self.curved(np.sum(parts, axis=0))

    def curved(self, total: FloatArray) -> FloatArray:
        """Returns losses of sums (n, 2): the first is minus value; monotone, so that fronts stay fronts."""
        return np.stack([5.0 + 45.0 * np.exp(3.0 * (total[:, 0] - self._low) / self._span - 3.0), total[:, 1]], axis=1)


def synthetic_task(*, n_stages: int = 4, seed: int = 0) -> Task:
    """Returns a task of `n_stages` stages of 7 genes, the cost exact, with its exact front.

    Both sums are over stages, so a member of the front is made of members of the stages' fronts: adding them up stage
    by stage, without what is dominated, gives the whole front.
    """
    rng = np.random.default_rng([seed, 7])
    stages = [Stage(i, rng) for i in range(n_stages)]
    fronts = [stage.columns[pareto.front(stage.columns)] for stage in stages]

    def joined(a: FloatArray, b: FloatArray) -> FloatArray:
        both = (a[:, None] + b[None]).reshape(-1, 2)
        return np.unique(both[pareto.front(both)], axis=0)

    best = reduce(joined, fronts)
    low = sum(float(stage.columns[:, 0].min()) for stage in stages)
    high = sum(float(stage.columns[:, 0].max()) for stage in stages)
    losses = SyntheticLosses(stages, low, high - low)
    space = SearchSpace([gene for stage in stages for gene in stage.space.genes])
    worst = losses.curved(np.sum([stage.columns.max(axis=0) for stage in stages], axis=0)[None])[0]
    front = losses.curved(best)
    nadir = front.max(axis=0) + 0.1 * np.ptp(front, axis=0)
    return Task("synthetic", space, ("error", "cost"), losses, (False, True), front, {"worst": worst, "front": nadir})
