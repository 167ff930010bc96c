"""Exact Gaussian process over blocks of features: a linear and a smooth part, each with its own weight per block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack, solve_triangular

from predictors.base import FloatArray
from predictors.gp_answers import GPAnswer, Posterior
from predictors.gp_weights import JITTER, Choice, Rows, Weights, spread_rows, tail_weights
from predictors.threads import one_thread

__all__ = ["BlockGP", "Weights"]

ROBUST_ROWS = 12
ROBUST_STEPS = 3


class BlockGP:
    """y = c + f(x) + noise with cov f = sum_b a_b <x_b, x'_b> + s M(sum_b w_b |x_b - x'_b|^2).

    M is the Matern kernel of order 5/2 (Rasmussen and Williams 2006, eq. 4.17). a, s, w and the noise variance have
    log-normal priors and maximise the posterior by L-BFGS, on at most `rows` of the data; the process itself is then
    conditioned on all rows. Everything is deterministic.

    Blocks should come scaled so that the mean squared distance from a block's mean is 1 over the space: the priors
    mean that. Labels are standardised inside.

    Args:
        widths: number of columns of each block, in order.
        linear: with the linear part.
        smooth: with the smooth part.
        robust: let the labels' noise have heavy tails where errors show them: rows get the weights of Student's t,
            from standardised leave-one-out errors instead of residuals, which a flexible model makes small.
        rows: used to choose the hyperparameters.
        iterations: of the optimiser, at most.
        freedom: prior deviation of a hyperparameter's logarithm; larger lets more blocks be switched off.
    """

    def __init__(
        self,
        widths: Sequence[int],
        *,
        linear: bool = True,
        smooth: bool = True,
        robust: bool = False,
        rows: int = 256,
        iterations: int = 50,
        freedom: float = 1.5,
    ) -> None:
        if not widths or min(widths) < 1:
            raise ValueError(f"widths must list at least one positive block width, but got {list(widths)}.")
        if not (linear or smooth):
            raise ValueError("a Gaussian process must have a linear or a smooth part, but both are off.")
        self.widths = tuple(int(w) for w in widths)
        self.linear, self.smooth, self.robust = linear, smooth, robust
        self.rows, self.iterations, self.freedom = rows, iterations, freedom
        self.edges = np.concatenate([[0], np.cumsum(self.widths)])
        self._post: Posterior | None = None
        self._seen: Rows | None = None

    # -- fitting -------------------------------------------------------------------------------------

    def fit(
        self,
        x: FloatArray,
        y: FloatArray,
        *,
        noise_std: FloatArray | None = None,
        noise_scale: FloatArray | None = None,
        weights: Weights | None = None,
        start: Weights | None = None,
    ) -> BlockGP:
        """Returns self, conditioned on n rows.

        Args:
            x: (n, d) features, d the sum of the widths.
            y: (n,) finite labels.
            noise_std: (n,) known standard errors in the unit of y, added to the noise that is learned; NaN = 0.
            noise_scale: (n,) positive factors of the learned noise variance.
            weights: hyperparameters to use as they are; None chooses them.
            start: where the choice begins.
        """
        with one_thread(len(y)):
            return self._fit(x, y, noise_std, noise_scale, weights, start)

    def _fit(
        self,
        x: FloatArray,
        y: FloatArray,
        noise_std: FloatArray | None,
        noise_scale: FloatArray | None,
        weights: Weights | None,
        start: Weights | None,
    ) -> BlockGP:
        x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        if x.ndim != 2 or x.shape[1] != self.edges[-1]:
            raise ValueError(f"x must have shape (n, {self.edges[-1]}), but got {x.shape}.")
        if y.shape != (len(x),) or len(x) == 0:
            raise ValueError(f"y must have shape ({len(x)},) with at least one row, but got {y.shape}.")
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise ValueError("x and y must be finite.")
        n = len(y)
        level, spread = float(y.mean()), float(y.std())
        spread = spread if spread > 1e-12 * max(1.0, abs(level)) else max(1e-12, abs(level) * 1e-12)
        data = Rows(
            x=x - x.mean(axis=0),
            y=(y - level) / spread,
            scale=np.ones(n) if noise_scale is None else np.asarray(noise_scale, dtype=np.float64),
            known=np.zeros(n) if noise_std is None else np.nan_to_num(np.asarray(noise_std)) ** 2 / spread**2,
        )
        centre = x.mean(axis=0)
        some = spread_rows(n, self.rows)
        chosen = weights or self._choice(data.only(some)).best(start, iterations=self.iterations)
        post = self._condition(data, chosen, centre, level, spread)
        heavy = data
        if self.robust and n >= ROBUST_ROWS:
            for _ in range(ROBUST_STEPS):
                tail = tail_weights(post.loo_error / np.sqrt(post.loo_variance))
                if tail is None:
                    break
                heavy = replace(data, scale=data.scale / tail)
                if weights is None:
                    chosen = self._choice(heavy.only(some)).best(chosen, iterations=self.iterations // 3)
                post = self._condition(heavy, chosen, centre, level, spread)
        self._post, self._seen = post, heavy.only(some)
        return self

    def draws(self, count: int, *, seed: int = 0) -> list[BlockGP]:
        """Returns processes with hyperparameters drawn from their posterior, given the same rows; see `Choice.draws`.

        Together they say what the best one alone does not know when rows are few. Only right after `fit`.
        """
        post = self._posterior
        if self._seen is None or len(self._seen.y) < len(post.alpha):
            raise RuntimeError("draws must be taken right after a fit to at most `rows` rows.")
        out = []
        with one_thread(len(post.alpha)):
            for weights in self._choice(self._seen).draws(count, post.weights, seed=seed):
                other = BlockGP(self.widths, linear=self.linear, smooth=self.smooth, robust=self.robust)
                other._post = self._condition(self._seen, weights, post.centre, post.level, post.spread)
                out.append(other)
        return out

    def _choice(self, rows: Rows) -> Choice:
        return Choice(rows, self.edges, linear=self.linear, smooth=self.smooth, freedom=self.freedom)

    def _condition(self, data: Rows, w: Weights, centre: FloatArray, level: float, spread: float) -> Posterior:
        """Returns the process given all rows."""
        cov = self._cov(data.x, data.x, w)
        noise = w.noise * data.scale + data.known
        jitter = JITTER
        while True:
            noisy = cov + np.diag(noise + jitter)
            lower, info = lapack.dpotrf(noisy, lower=1)
            if info == 0:
                break
            jitter *= 10  # a kernel of many equal rows is singular to the last digit
        alpha = lapack.dpotrs(lower, data.y, lower=1)[0]
        inverse = lapack.dpotri(lower, lower=1)[0]
        diagonal = np.diag(inverse).copy()
        loo_error = alpha / diagonal  # Rasmussen and Williams 2006, eq. 5.12
        evidence = (
            -0.5 * data.y @ alpha - np.log(np.diag(lower)).sum() - 0.5 * len(alpha) * np.log(2 * np.pi * spread**2)
        )
        return Posterior(
            weights=w,
            x=data.x,
            centre=centre,
            level=level,
            spread=spread,
            lower=np.tril(lower),
            alpha=alpha,
            loo_error=loo_error,
            # A row that was weighted down is judged as a new label would be, or it would seem to fit.
            loo_variance=np.maximum(1 / diagonal - noise, 1e-12) + w.noise + data.known,
            evidence=float(evidence),
        )

    # -- answers -------------------------------------------------------------------------------------

    @property
    def fitted(self) -> bool:
        """Whether `fit` was called."""
        return self._post is not None

    @property
    def _posterior(self) -> Posterior:
        if self._post is None:
            raise RuntimeError("a Gaussian process must be fitted before it is used, but it is not.")
        return self._post

    @property
    def weights(self) -> Weights:
        """The hyperparameters, for labels of deviation 1."""
        return self._posterior.weights

    @property
    def evidence(self) -> float:
        """Log marginal likelihood of all labels, in their own unit."""
        return self._posterior.evidence

    @property
    def noise_std(self) -> float:
        """Learned deviation of a label's noise, in the unit of y."""
        return float(np.sqrt(self.weights.noise) * self._posterior.spread)

    def predict(self, x: FloatArray, *, noise: bool = False) -> tuple[FloatArray, FloatArray]:
        """Returns mean and deviation of f, each (n,), of features (n, d); `noise` adds that of one label to it."""
        with one_thread(len(self._posterior.alpha)):
            return self.answer(noise=noise)(np.asarray(x, dtype=np.float64))

    def answer(self, *, noise: bool = False, basis: FloatArray | None = None) -> GPAnswer:
        """Returns `predict` as a function, of rows (n, p) where features are rows @ basis (p, d)."""
        return GPAnswer(self._posterior, self.widths, linear=self.linear, smooth=self.smooth, noise=noise, basis=basis)

    def sample(self, x: FloatArray, count: int, rng: np.random.Generator) -> FloatArray:
        """Returns `count` joint draws of f, (count, n), at features (n, d); memory and time grow with n^2 and n^3."""
        post = self._posterior
        new = np.asarray(x, dtype=np.float64) - post.centre
        cross = self._cov(post.x, new, post.weights)
        half = solve_triangular(post.lower, cross, lower=True, check_finite=False)
        cov = self._cov(new, new, post.weights) - half.T @ half
        values, vectors = np.linalg.eigh((cov + cov.T) / 2)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        draws = rng.normal(size=(count, len(new))) @ root.T
        return np.asarray(post.level + post.spread * (post.alpha @ cross + draws), dtype=np.float64)

    def leave_one_out(self) -> tuple[FloatArray, FloatArray]:
        """Returns for each training row the error (label - mean) and deviation, each (n,), of a fit without it.

        Hyperparameters stay. The deviation is that of a new label.
        """
        post = self._posterior
        return post.spread * post.loo_error, post.spread * np.sqrt(post.loo_variance)

    # -- kernels -------------------------------------------------------------------------------------

    def _split(self, x: FloatArray) -> list[FloatArray]:
        return [x[:, a:b] for a, b in zip(self.edges[:-1], self.edges[1:], strict=True)]

    def _root(self, x: FloatArray, w: Weights) -> tuple[FloatArray, FloatArray]:
        """Returns features whose inner products are the linear part, and whose distances are those of the smooth."""
        return (
            x * np.sqrt(np.repeat(w.linear, self.widths)) if self.linear else x[:, :0],
            x * np.sqrt(np.repeat(w.bends, self.widths)) if self.smooth else x[:, :0],
        )

    def _cov(self, a: FloatArray, b: FloatArray, w: Weights) -> FloatArray:
        return self._kernel(*self._root(a, w), *self._root(b, w), w)

    def _kernel(self, a: FloatArray, a_bent: FloatArray, b: FloatArray, b_bent: FloatArray, w: Weights) -> FloatArray:
        """Returns the prior covariance (rows of a, rows of b), the constant's included."""
        out = np.ones((len(a), len(b)))
        if self.linear:
            out += a @ b.T
        if self.smooth:
            r = a_bent @ b_bent.T
            r *= -2.0
            r += (a_bent**2).sum(axis=1)[:, None]
            r += (b_bent**2).sum(axis=1)
            np.maximum(r, 0.0, out=r)
            r *= 5.0
            np.sqrt(r, out=r)
            decay = np.exp(-r)
            decay *= w.smooth
            r *= 1 + r / 3
            r += 1.0
            r *= decay
            out += r
        return out

    # -- files ---------------------------------------------------------------------------------------

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Returns what was learned as arrays."""
        post = self._posterior
        return {
            "weights": post.weights.vector(),
            "x": post.x,
            "centre": post.centre,
            "scalars": np.array([post.level, post.spread, post.evidence]),
            "lower": post.lower,
            "alpha": post.alpha,
            "loo_error": post.loo_error,
            "loo_variance": post.loo_variance,
        }

    def settings(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            "widths": list(self.widths),
            "linear": self.linear,
            "smooth": self.smooth,
            "robust": self.robust,
            "rows": self.rows,
            "iterations": self.iterations,
            "freedom": self.freedom,
        }

    @classmethod
    def restore(cls, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]) -> BlockGP:
        """Returns the fitted process of `arrays()` and `settings()`."""
        model = cls(
            settings["widths"],
            linear=settings["linear"],
            smooth=settings["smooth"],
            robust=settings["robust"],
            rows=settings["rows"],
            iterations=settings["iterations"],
            freedom=settings["freedom"],
        )
        level, spread, evidence = (float(v) for v in arrays["scalars"])
        model._post = Posterior(
            weights=Weights.of(arrays["weights"]),
            x=arrays["x"],
            centre=arrays["centre"],
            level=level,
            spread=spread,
            lower=arrays["lower"],
            alpha=arrays["alpha"],
            loo_error=arrays["loo_error"],
            loo_variance=arrays["loo_variance"],
            evidence=evidence,
        )
        return model
