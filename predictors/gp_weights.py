"""Hyperparameters of a Gaussian process over blocks: the most probable ones, or draws from their posterior."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack
from scipy.optimize import minimize
from scipy.special import gammaln

from predictors.base import FloatArray

JITTER = 1e-9
LOG_RANGE = 9.0
HEAVY_TAILS = (3.0, 6.0)
"""Degrees of freedom of Student's t that labels may have instead of a normal's."""


@dataclass(frozen=True)
class Weights:
    """Hyperparameters, none negative, for labels of deviation 1.

    linear: (blocks,) variance of each block's linear part. smooth: variance of the smooth part.
    bends: (blocks,) inverse squared length-scale of each block in the smooth part. noise: variance of a label.
    """

    linear: FloatArray
    smooth: float
    bends: FloatArray
    noise: float

    def vector(self) -> FloatArray:
        """Returns all of them in one vector (2 blocks + 2,)."""
        return np.concatenate([self.linear, [self.smooth], self.bends, [self.noise]])

    @classmethod
    def of(cls, vector: FloatArray) -> Weights:
        """Returns the weights that `vector` gave."""
        blocks = (len(vector) - 2) // 2
        return cls(vector[:blocks], float(vector[blocks]), vector[blocks + 1 : -1], float(vector[-1]))


@dataclass(frozen=True)
class Rows:
    """Centred features (n, d), standardised labels (n,), factors (n,) of the noise variance, known variances (n,)."""

    x: FloatArray
    y: FloatArray
    scale: FloatArray
    known: FloatArray

    def only(self, rows: NDArray[np.intp]) -> Rows:
        """Returns some of the rows."""
        return Rows(self.x[rows], self.y[rows], self.scale[rows], self.known[rows])


class Choice:
    """The posterior density of the hyperparameters given some rows, up to a constant.

    Logarithms of the hyperparameters are normal a priori, around values that share the labels' variance evenly among
    the blocks, with deviation `freedom`.

    Args:
        rows: labels and features.
        edges: (blocks + 1,) column bounds of the blocks.
        linear, smooth: the parts that the process has; the other's hyperparameters stay.
        freedom: prior deviation of a logarithm.
    """

    def __init__(self, rows: Rows, edges: NDArray[np.intp], *, linear: bool, smooth: bool, freedom: float) -> None:
        blocks = len(edges) - 1
        self.rows, self.blocks, self.linear, self.smooth = rows, blocks, linear, smooth
        centre = Weights(np.full(blocks, 1.0 / blocks), 0.3, np.full(blocks, 0.5 / blocks), 0.02)
        self.centre = np.log(centre.vector())
        self.freedom = freedom
        self.free = np.ones(2 * blocks + 2, dtype=bool)
        self.free[:blocks] = linear
        self.free[blocks : 2 * blocks + 1] = smooth
        parts = [rows.x[:, a:b] for a, b in pairwise(edges)]
        self._grams = np.stack([p @ p.T for p in parts])  # (blocks, n, n)
        if smooth:
            norms = np.einsum("bii->bi", self._grams)
            self._gaps = np.maximum(norms[:, :, None] + norms[:, None, :] - 2 * self._grams, 0)
        self._diagonal = np.diag_indices(len(rows.y))

    def _covariance(self, w: Weights) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Returns the covariance of the labels and the smooth part's r, exp(-r) and Matern values, each (n, n)."""
        n = len(self.rows.y)
        cov = np.ones((n, n))
        r = decay = bump = cov
        if self.linear:
            cov = cov + np.tensordot(w.linear, self._grams, 1)
        if self.smooth:
            r = np.sqrt(5 * np.tensordot(w.bends, self._gaps, 1) + 1e-12)
            decay = np.exp(-r)
            bump = (1 + r + r * r / 3) * decay
            cov = cov + w.smooth * bump
        cov[self._diagonal] += w.noise * self.rows.scale + self.rows.known + JITTER
        return cov, r, decay, bump

    def log_likelihood(self, logs: FloatArray) -> float:
        """Returns the log density of the labels (without its constant), of all logarithms (2 blocks + 2,)."""
        cov = self._covariance(Weights.of(np.exp(logs)))[0]
        lower, info = lapack.dpotrf(cov, lower=1)
        if info:
            return -np.inf
        alpha = lapack.dpotrs(lower, self.rows.y, lower=1)[0]
        return float(-0.5 * self.rows.y @ alpha - np.log(np.diag(lower)).sum())

    def loss(self, free_logs: FloatArray) -> tuple[float, FloatArray]:
        """Returns minus the log posterior density and its gradient, of the free logarithms.

        Rasmussen and Williams 2006, eq. 5.8 and 5.9, with the log prior.
        """
        logs = self.centre.copy()
        logs[self.free] = free_logs
        w = Weights.of(np.exp(logs))
        cov, r, decay, bump = self._covariance(w)
        lower, info = lapack.dpotrf(cov, lower=1)
        if info:
            return 1e12, np.zeros(int(self.free.sum()))
        y, blocks = self.rows.y, self.blocks
        alpha = lapack.dpotrs(lower, y, lower=1)[0]
        value = 0.5 * y @ alpha + np.log(np.diag(lower)).sum()
        inverse = lapack.dpotri(lower, lower=1)[0]
        inverse += inverse.T  # only the lower triangle was filled
        inverse[self._diagonal] *= 0.5
        pull = inverse - np.outer(alpha, alpha)  # d value / d cov = pull / 2
        slope = np.zeros(len(logs))
        if self.linear:
            slope[:blocks] = 0.5 * w.linear * np.tensordot(self._grams, pull, 2)
        if self.smooth:
            slope[blocks] = 0.5 * w.smooth * float((pull * bump).sum())
            falling = pull * (-(5 / 6) * (1 + r) * decay)  # d bump / d (squared distance)
            slope[blocks + 1 : -1] = 0.5 * w.smooth * w.bends * np.tensordot(self._gaps, falling, 2)
        slope[-1] = 0.5 * w.noise * float((np.diag(pull) * self.rows.scale).sum())
        off = (logs - self.centre) / self.freedom
        return float(value + 0.5 * (off[self.free] ** 2).sum()), (slope + off / self.freedom)[self.free]

    def best(self, start: Weights | None = None, *, iterations: int) -> Weights:
        """Returns the hyperparameters of largest density, found by L-BFGS from `start` or from the prior's centre."""
        first = self.centre if start is None else np.log(np.maximum(start.vector(), 1e-300))
        low, high = self.centre[self.free] - LOG_RANGE, self.centre[self.free] + LOG_RANGE
        result = minimize(
            self.loss,
            np.clip(first[self.free], low, high),
            jac=True,
            method="L-BFGS-B",
            bounds=list(zip(low, high, strict=True)),
            options={"maxiter": iterations, "ftol": 1e-6},
        )
        return self._weights(result.x)

    def draws(self, count: int, start: Weights, *, skip: int = 40, thin: int = 5, seed: int = 0) -> list[Weights]:
        """Returns `count` draws from the posterior by elliptical slice sampling (Murray, Adams and MacKay 2010)."""
        rng = np.random.default_rng(seed)
        centre = self.centre[self.free]
        state = np.clip(np.log(np.maximum(start.vector(), 1e-300))[self.free] - centre, -LOG_RANGE, LOG_RANGE)

        def likelihood(offset: FloatArray) -> float:
            logs = self.centre.copy()
            logs[self.free] += offset
            return self.log_likelihood(np.clip(logs, -60, 60))

        current, out = likelihood(state), []
        for step in range(skip + count * thin):
            other = self.freedom * rng.normal(size=len(state))
            height = current + np.log(rng.random())
            angle = rng.uniform(0, 2 * np.pi)
            low, high = angle - 2 * np.pi, angle
            while True:
                proposal = state * np.cos(angle) + other * np.sin(angle)
                found = likelihood(proposal)
                if found > height or high - low < 1e-9:
                    state, current = proposal, found
                    break
                low, high = (angle, high) if angle < 0 else (low, angle)
                angle = rng.uniform(low, high)
            if step >= skip and (step - skip) % thin == thin - 1:
                out.append(self._weights(centre + state))
        return out

    def _weights(self, free_logs: FloatArray) -> Weights:
        logs = self.centre.copy()
        logs[self.free] = np.clip(free_logs, -60, 60)
        out = np.exp(logs)
        out[: self.blocks] *= self.linear
        out[self.blocks] *= self.smooth
        return Weights.of(out)


def spread_rows(n: int, limit: int) -> NDArray[np.intp]:
    """Returns at most `limit` rows of n, evenly spread, so that searches ordered in time are covered."""
    return np.arange(n) if n <= limit else np.linspace(0, n - 1, limit).round().astype(np.intp)


def tail_weights(z: FloatArray) -> FloatArray | None:
    """Returns a weight for each row (n,) if Student's t explains standardised errors better than a normal, else None.

    (nu + 1) / (nu + z^2 / scale^2) is the expectation step of a t as a scale mixture of normals (Lange et al. 1989);
    the scale is fitted by the same steps. A t must win by more than the one parameter it adds (Akaike).
    """
    spread2 = float((z**2).mean())
    if not np.isfinite(spread2) or spread2 <= 0:
        return None
    best = -0.5 * len(z) * (1 + np.log(2 * np.pi * spread2))
    found: FloatArray | None = None
    for nu in HEAVY_TAILS:
        scale2 = spread2 * 0.5
        for _ in range(20):
            scale2 = float(((nu + 1) / (nu + z**2 / scale2) * z**2).mean())
        q = z**2 / scale2
        constant = gammaln((nu + 1) / 2) - gammaln(nu / 2) - 0.5 * np.log(nu * np.pi * scale2)
        likelihood = float(len(z) * constant - (nu + 1) / 2 * np.log1p(q / nu).sum()) - 1.0
        if likelihood > best:
            best, found = likelihood, (nu + 1) / (nu + q)
    return found
