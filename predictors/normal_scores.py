"""Normal scores: labels replaced by what their ranks would be of a normal distribution, and the way back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri
from scipy.stats import rankdata

from predictors.base import FloatArray


@dataclass(frozen=True)
class NormalScores:
    """A rising map between values and scores, straight between the known pairs and beyond them.

    A model of scores is fitted to the order of the labels: a net that did not train counts as the last one and no more,
    and close accuracies at the top are spread out. Scores are ndtri((rank - 3/8) / (n + 1/4)) (Blom 1958).

    Args:
        values: (m,) rising, m >= 2.
        scores: (m,) rising.
    """

    values: FloatArray
    scores: FloatArray

    @classmethod
    def of(cls, labels: FloatArray) -> NormalScores:
        """Returns the map of labels (n,), at least two of them different; equal ones share a score."""
        values, first = np.unique(labels, return_index=True)
        return cls(values, ndtri((rankdata(labels)[first] - 0.375) / (len(labels) + 0.25)))

    @property
    def _slope(self) -> float:
        """What one score is in values, over all labels; the map's own last step would be one pair's luck."""
        return float(np.ptp(self.values) / np.ptp(self.scores))

    def forward(self, labels: FloatArray) -> FloatArray:
        """Returns the scores (n,) of labels (n,) that the map was made of."""
        return np.asarray(np.interp(labels, self.values, self.scores), dtype=np.float64)

    def back(self, scores: FloatArray) -> FloatArray:
        """Returns values (n,) of any scores (n,)."""
        beyond = np.minimum(scores - self.scores[0], 0.0) + np.maximum(scores - self.scores[-1], 0.0)
        return np.asarray(np.interp(scores, self.scores, self.values) + self._slope * beyond, dtype=np.float64)

    def back_with_std(self, mean: FloatArray, std: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Returns mean and deviation of values, each (n,): the deviation is half the way between both ends' values."""
        return self.back(mean), 0.5 * (self.back(mean + std) - self.back(mean - std))
