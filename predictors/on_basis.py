"""Answers that are a linear mean and a quadratic variance of one-hot columns, without the features in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.linalg import qr

from predictors.base import FloatArray

Answer = Callable[[FloatArray], tuple[FloatArray, FloatArray]]
"""Rows (n, p) -> mean and deviation of a new label, each (n,)."""


@dataclass(frozen=True)
class LinearAnswer:
    """mean = x w + b, variance = noise (floor + |x root + shift|^2) of rows x (n, p).

    Features made of genes alone are sums of one-hot columns, hot @ basis: what a linear model says of the features, it
    says of the few one-hot columns too, and its deviation takes no more than p columns either.
    """

    weights: FloatArray  # (p,)
    offset: float
    root: FloatArray  # (p, r), r <= p + 1
    shift: FloatArray  # (r,)
    floor: float
    noise: float

    @classmethod
    def of(
        cls, weights: FloatArray, offset: float, root: FloatArray, shift: FloatArray, *, floor: float, noise: float
    ) -> LinearAnswer:
        """Returns the answer with the same lengths |x root + shift| from as few columns as there can be."""
        both = shortest(np.concatenate([root, shift[None, :]]))
        return cls(weights, offset, both[:-1], both[-1], floor, noise)

    def __call__(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Returns mean and deviation, each (n,)."""
        along = x @ self.root
        along += self.shift
        variance = self.floor + np.einsum("ij,ij->i", along, along)
        return x @ self.weights + self.offset, np.sqrt(self.noise * variance)


def shortest(root: FloatArray) -> FloatArray:
    """Returns a matrix (p, <= p) whose rows have the inner products of those of `root` (p, r)."""
    if root.shape[1] <= root.shape[0]:
        return root
    triangle: FloatArray = qr(root.T, mode="r", check_finite=False)[0][: root.shape[0]]
    return np.ascontiguousarray(triangle.T)
