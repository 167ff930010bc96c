"""What a conditioned Gaussian process says of many rows: matrix products on pieces that stay in the cache."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import blas

from predictors.base import FloatArray
from predictors.gp_weights import Weights
from predictors.on_basis import shortest

PIECE = 512
"""Rows at once: with 200 training rows a piece of the kernel is 0.8 MB."""


@dataclass(frozen=True)
class Posterior:
    """A process with its hyperparameters, given n labelled rows."""

    weights: Weights
    x: FloatArray  # (n, d) centred
    centre: FloatArray  # (d,)
    level: float
    spread: float
    lower: FloatArray  # (n, n) Cholesky factor of the covariance of the labels
    alpha: FloatArray  # (n,)
    loo_error: FloatArray  # (n,)
    loo_variance: FloatArray  # (n,)
    evidence: float


class GPAnswer:
    """Mean and deviation of f at rows of features (m, d), or of anything that features are a product of.

    Args:
        post: the process.
        widths: columns of each block.
        linear, smooth: parts of the process.
        noise: whether deviations include the noise of one label.
        basis: (p, d), if rows (m, p) are to be given of which the features are rows @ basis; None: features.
    """

    def __init__(
        self,
        post: Posterior,
        widths: tuple[int, ...],
        *,
        linear: bool,
        smooth: bool,
        noise: bool,
        basis: FloatArray | None = None,
    ) -> None:
        w, self.post = post.weights, post
        self.noise = w.noise if noise else 0.0
        self.prior = 1.0 + (w.smooth if smooth else 0.0)
        self.linear = _Part(post, np.repeat(w.linear, widths), basis) if linear else None
        self.smooth = _Part(post, np.repeat(5 * w.bends, widths), basis) if smooth else None
        self.lower = np.asfortranarray(post.lower)

    def __call__(self, rows: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Returns mean and deviation, each (m,), of rows (m, p)."""
        post = self.post
        mean, variance = np.empty(len(rows)), np.empty(len(rows))
        for start in range(0, len(rows), PIECE):
            part = slice(start, start + PIECE)
            cross, prior = self._cross(rows[part])
            mean[part] = cross @ post.alpha
            # In place: the transpose of an array in C order is what BLAS calls a matrix.
            half = blas.dtrsm(1.0, self.lower, cross.T, lower=1, overwrite_b=1)
            variance[part] = prior - np.einsum("ij,ij->j", half, half)
        variance = np.maximum(variance, 1e-12) + self.noise
        return post.level + post.spread * mean, post.spread * np.sqrt(variance)

    def _cross(self, rows: FloatArray) -> tuple[FloatArray, FloatArray | float]:
        """Returns covariances with the training rows (m, n), and the prior variance (m,), of rows (m, p)."""
        prior: FloatArray | float = self.prior
        cross = np.zeros((len(rows), len(self.post.alpha))) if self.smooth is None else self._smooth(rows, self.smooth)
        cross += 1.0
        if self.linear is not None:
            cross += self.linear.products(rows)
            prior = prior + self.linear.squares(rows)
        return cross, prior

    def _smooth(self, rows: FloatArray, part: _Part) -> FloatArray:
        """Returns s M (m, n), M Matern 5/2: (1 + r + r^2 / 3) exp(-r), r^2 five times the squared distance."""
        r = part.products(rows)
        r *= -2.0
        r += part.squares(rows)[:, None]
        r += part.lengths
        np.maximum(r, 0.0, out=r)
        out = r / 3.0
        np.sqrt(r, out=r)
        out += r
        out += 1.0
        np.exp(np.negative(r, out=r), out=r)
        r *= self.post.weights.smooth
        out *= r
        return out


class _Part:
    """Inner products under a weight per feature, of new rows with the training rows and with themselves."""

    def __init__(self, post: Posterior, weight: FloatArray, basis: FloatArray | None) -> None:
        weighted = post.x * weight  # (n, d)
        self.lengths = np.einsum("ij,ij->i", post.x, weighted)  # (n,)
        matrix = weighted.T if basis is None else basis @ weighted.T
        self.matrix, self.shift = np.ascontiguousarray(matrix), weighted @ post.centre
        self.weight, self.centre = weight, post.centre
        self.root: FloatArray | None = None
        if basis is not None:
            root = np.sqrt(weight)
            self.root = shortest(np.concatenate([basis * root, -(post.centre * root)[None, :]]))

    def products(self, rows: FloatArray) -> FloatArray:
        """Returns inner products (m, n) of rows (m, p) with the training rows."""
        out = rows @ self.matrix
        out -= self.shift
        return out

    def squares(self, rows: FloatArray) -> FloatArray:
        """Returns squared lengths (m,) of rows (m, p)."""
        if self.root is None:
            away = rows - self.centre
            away *= away
            return np.asarray(away @ self.weight, dtype=np.float64)
        away = rows @ self.root[:-1]
        away += self.root[-1]
        return np.asarray(np.einsum("ij,ij->i", away, away), dtype=np.float64)
