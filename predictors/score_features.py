"""Features made from scores of networks, which are computed by a function that the predictor is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from predictors.base import FloatArray, ScoreFunction
from predictors.feature_blocks import Block, Reading
from search_spaces.space import Population

REFERENCE_NETS = 12
"""Networks that tell how far each score spreads: only a scale, and a score costs a forward and a backward pass."""


class ScoreColumns:
    """Standardises scores; what that takes is stored, so that a loaded predictor scores only what it is asked.

    The k columns have mean 0 over the reference and a summed variance of 1, and may be negative.

    Args:
        scores: of any population.
        middle: (k,) of the reference.
        spread: (k,) of the reference.
    """

    def __init__(self, scores: ScoreFunction, *, middle: FloatArray, spread: FloatArray) -> None:
        self.scores, self.middle, self.spread = scores, middle, spread

    @classmethod
    def of(cls, scores: ScoreFunction, reference: Population) -> ScoreColumns:
        """Returns the columns with middle and spread of the first `REFERENCE_NETS` rows of a reference (n, g)."""
        x = finite(scores, reference[:REFERENCE_NETS])
        spread = x.std(axis=0)
        flat = spread <= 1e-9 * np.abs(x).max(axis=0)
        return cls(scores, middle=x.mean(axis=0), spread=np.where(flat, 1.0, spread))

    @classmethod
    def restore(cls, scores: ScoreFunction | None, settings: Mapping[str, Any]) -> ScoreColumns:
        """Returns the columns of `settings()`.

        Raises:
            ValueError: no scores, or others than those of the fit.
        """
        scores = required(scores).only(settings["columns"])
        if scores.digest != settings["digest"]:
            raise ValueError("the scores must be those that the predictor was fitted with, but they differ.")
        return cls(scores, middle=np.array(settings["middle"]), spread=np.array(settings["spread"]))

    def settings(self) -> dict[str, Any]:
        """Returns what `restore` needs, JSON-able."""
        return {
            "digest": self.scores.digest,
            "columns": list(self.scores.columns),
            "middle": self.middle.tolist(),
            "spread": self.spread.tolist(),
        }

    def block(self) -> Block:
        """Returns the scores as a block of columns, scaled already."""
        return Block("scores", self.scores.columns, self._matrix)

    def _matrix(self, reading: Reading) -> FloatArray:
        x = finite(self.scores, reading.rows)
        return np.asarray((x - self.middle) / (self.spread * np.sqrt(len(self.spread))), dtype=np.float64)


def required(scores: ScoreFunction | None) -> ScoreFunction:
    """Returns the function, or raises ValueError where there is none."""
    if scores is None:
        raise ValueError("features 'scores' must be given the scores of the space's networks, but got none.")
    return scores


def finite(scores: ScoreFunction, population: Population) -> FloatArray:
    """Returns the scores (n, k) of a population (n, g); raises ValueError where one is NaN or infinite."""
    x = scores(population)
    if not np.isfinite(x).all():
        row, column = np.argwhere(~np.isfinite(x))[0]
        raise ValueError(f"scores must be finite, but {scores.columns[column]} of row {row} is {x[row, column]}.")
    return x
