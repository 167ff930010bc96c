"""Task: a search problem that answers at once, and whose best front is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwsearch import pareto
from hwsearch.engines.base import ExactLosses
from hwsearch.engines.evolve import evolve
from search_spaces.space import Population, SearchSpace

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Task:
    """What an engine is tried on; picklable if `losses` is.

    Args:
        name: for tables and pictures.
        space: what is searched.
        metrics: name of every loss.
        losses: population -> (n, m), all finite; a row of NaN is an evaluation that fails.
        exact: which losses engines may compute themselves.
        front: (f, m) the best losses that there are, or that are known.
        references: name -> (m,) point that the hypervolume is measured to.
    """

    name: str
    space: SearchSpace
    metrics: tuple[str, ...]
    losses: ExactLosses
    exact: tuple[bool, ...]
    front: FloatArray
    references: Mapping[str, FloatArray]

    def __post_init__(self) -> None:
        for name, point in self.references.items():
            if pareto.hypervolume(self.front, point) <= 0.0:
                raise ValueError(f"reference {name!r} must be worse than some point of the front, but got {point}.")

    def known(self) -> ExactLosses | None:
        """Returns what engines may compute, None if that is nothing."""
        return ExactPart(self) if any(self.exact) else None

    def shares(self, losses: FloatArray, reference: str) -> FloatArray:
        """Returns the share (n,) of the front's hypervolume that the first 1 ... n rows of losses (n, m) reach."""
        point = self.references[reference]
        whole = pareto.hypervolume(self.front, point)
        best = np.zeros((0, losses.shape[1]))
        out = np.zeros(len(losses))
        share = 0.0
        for i, row in enumerate(losses):
            if np.isfinite(row).all() and (row < point).all() and not (best <= row).all(axis=1).any():
                best = np.concatenate([best, row[None]])
                best = best[pareto.front(best)]
                share = pareto.hypervolume(best, point) / whole
            out[i] = share
        return out


class ExactPart:
    """The columns of a task's losses that engines may compute; picklable."""

    def __init__(self, task: Task) -> None:
        self._losses, self._exact = task.losses, np.array(task.exact)

    def __call__(self, population: Population) -> FloatArray:
        """Returns losses (n, m), NaN in the columns that must be evaluated."""
        return np.where(self._exact, self._losses(population), np.nan)


def searched_front(
    space: SearchSpace, losses: ExactLosses, *, seed: int = 0, n_candidates: int = 200_000, survive: int = 1000
) -> FloatArray:
    """Returns the front (f, m) that a long evolution finds: for spaces that cannot be enumerated."""
    rng = np.random.default_rng([seed, 20])
    found = evolve(space, losses, rng=rng, n_candidates=n_candidates, survive=survive)
    return found.losses[pareto.front(found.losses)]
