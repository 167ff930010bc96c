"""Surrogates: Gaussian processes over blocks of features, for losses that are dear to evaluate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, lapack, solve_triangular
from scipy.optimize import minimize

FloatArray = NDArray[np.float64]

NUGGET = 1e-6
"""Smallest noise variance, in units of the labels' variance: keeps the kernel matrix positive definite."""

LOG_BOUNDS = (-9.0, 4.0)
SHIFT_BOUNDS = (np.log(0.02), np.log(20.0))


@dataclass(frozen=True)
class Warp:
    """z = (log((y - low) / span + shift) - center) / scale: stretches the good end of a loss.

    With a small shift, differences among the best count more, as between 93 and 94 % of accuracy against 53 and 54 %;
    with a large one it is linear. Snelson, Rasmussen & Ghahramani 2003 (warped Gaussian processes), one parameter.
    """

    low: float
    span: float
    shift: float
    center: float
    scale: float

    @classmethod
    def of(cls, values: FloatArray, shift: float) -> Warp:
        """Returns the warp after which `values` (n,) have mean 0 and variance 1."""
        low, span = float(values.min()), float(np.ptp(values))
        span = span if span > 0 else 1.0
        u = np.log((values - low) / span + shift)
        scale = float(u.std())
        return cls(low, span, shift, float(u.mean()), scale if scale > 0 else 1.0)

    def forward(self, values: FloatArray) -> FloatArray:
        """Returns z of values; values below the model's end are taken just inside it."""
        u = np.log(np.maximum((values - self.low) / self.span + self.shift, 1e-3 * self.shift))
        return np.asarray((u - self.center) / self.scale)

    def slope(self, values: FloatArray) -> FloatArray:
        """Returns dz/dy."""
        inside = np.maximum((values - self.low) / self.span + self.shift, 1e-3 * self.shift)
        return np.asarray(1.0 / (self.span * self.scale * inside))

    @property
    def end(self) -> float:
        """The value that z -> -infinity stands for: y = end + exp(scale z + center) * span."""
        return self.low - self.shift * self.span


@dataclass(frozen=True)
class Hyper:
    """Logarithms of a kernel's parameters, in units of the warped labels' variance.

    Args:
        reach: (b,) weight of every block in the distance of the Matern part.
        bend: variance of the Matern part.
        slope: (b,) variance of the linear part of every block.
        noise: variance of what is peculiar to one label and no standard error accounts for, in z.
        jitter: the same in the loss itself, in units of its squared span: it weighs more where the warp stretches.
        shift: of the warp.
    """

    reach: FloatArray
    bend: float
    slope: FloatArray
    noise: float
    jitter: float
    shift: float


class GaussianProcess:
    """z ~ GP(0, linear blocks + Matern 5/2 over blocks + constant) + noise, for one loss.

    k(a, b) = 1 + sum_i s_i <a_i, b_i> + v M52(sum_i r_i |a_i - b_i|^2), blocks i; parameters by maximum a posteriori
    (Rasmussen & Williams 2006, sections 2.2, 4.2 and 5.4.1), the warp's shift among them (with its Jacobian).

    Args:
        maps: one per block: features (n, d) @ map (d, k) are the columns of the block.
    """

    def __init__(self, maps: list[FloatArray]) -> None:
        self.maps = maps

    def fit(self, features: FloatArray, values: FloatArray, *, stds: FloatArray, iterations: int = 30) -> Hyper:
        """Returns the parameters that the labels make most probable.

        Args:
            features: (n, d).
            values: (n,) losses.
            stds: (n,) standard errors, NaN = unknown (then the noise parameter stands for them).
            iterations: of L-BFGS.
        """
        b, n = len(self.maps), len(values)
        blocks = [features @ m for m in self.maps]
        squares = [_squares(x, x) for x in blocks]
        grams = [x @ x.T for x in blocks]
        known = np.where(np.isnan(stds), 0.0, stds) ** 2
        low, span = float(values.min()), float(np.ptp(values)) or 1.0
        relative = (values - low) / span
        mean = np.concatenate([np.full(b, -1.0), [0.0], np.full(b, -1.0), [-4.5, -11.0, np.log(0.5)]])
        deviation = np.concatenate([np.full(b, 1.5), [1.0], np.full(b, 1.5), [2.0, 2.0, 1.5]])
        bounds = [LOG_BOUNDS] * (2 * b + 2) + [(-18.0, -2.0), SHIFT_BOUNDS]

        def objective(theta: FloatArray) -> tuple[float, FloatArray]:
            """Negative log posterior density of the labels (up to a constant), and its gradient."""
            a = np.exp(theta)
            inside = relative + a[-1]
            u = np.log(inside)
            du = a[-1] / inside  # d u / d theta[-1]
            scale = u.std()
            if not scale > 1e-9:
                return 1e10, np.zeros_like(theta)
            centred = u - u.mean()
            z = centred / scale
            dscale = float((centred * du).mean() / scale)
            dz = (du - du.mean()) / scale - z * dscale / scale
            distance = a[0] * squares[0]
            for i in range(1, b):
                distance = distance + a[i] * squares[i]
            r = np.sqrt(5.0 * distance)
            decay = np.exp(-r)
            matern = (1.0 + r + r * r / 3.0) * decay
            kernel = 1.0 + a[b] * matern
            for i in range(b):
                kernel += a[b + 1 + i] * grams[i]
            stretch = 1.0 / (scale * inside) ** 2
            jitter = a[2 * b + 2] * stretch
            noise = known / span**2 * stretch + jitter
            kernel[np.diag_indices(n)] += a[2 * b + 1] + NUGGET + noise
            root, failed = lapack.dpotrf(kernel, lower=1, clean=1)
            if failed:
                return 1e10, np.zeros_like(theta)
            alpha = cho_solve((root, True), z)
            inverse, _ = lapack.dpotri(root, lower=1)
            inverse = np.tril(inverse) + np.tril(inverse, -1).T
            pull = inverse - np.outer(alpha, alpha)
            gradient = np.empty_like(theta)
            bent = pull * (-(5.0 / 6.0) * (1.0 + r) * decay * a[b])
            for i in range(b):
                gradient[i] = 0.5 * a[i] * np.vdot(bent, squares[i])
                gradient[b + 1 + i] = 0.5 * a[b + 1 + i] * np.vdot(pull, grams[i])
            gradient[b] = 0.5 * a[b] * np.vdot(pull, matern)
            on_diagonal = np.diagonal(pull)
            gradient[2 * b + 1] = 0.5 * a[2 * b + 1] * on_diagonal.sum()
            gradient[2 * b + 2] = 0.5 * on_diagonal @ jitter
            # The shift moves labels, their noise and the Jacobian of the warp: sum log(inside) + n log(scale).
            dnoise = -2.0 * noise * (dscale / scale + du)
            gradient[-1] = alpha @ dz + du.sum() + n * dscale / scale + 0.5 * on_diagonal @ dnoise
            log_det = np.log(np.diagonal(root)).sum()
            value = 0.5 * z @ alpha + log_det + u.sum() + n * np.log(scale)
            off = (theta - mean) / deviation
            return float(value + 0.5 * off @ off), gradient + off / deviation

        theta = minimize(
            objective, mean, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": iterations}
        ).x
        bend, noise, jitter, shift = (float(theta[i]) for i in (b, 2 * b + 1, 2 * b + 2, 2 * b + 3))
        return Hyper(theta[:b], bend, theta[b + 1 : 2 * b + 1], noise, jitter, shift)


class Posterior:
    """What a Gaussian process knows after its labels: mean and deviation of z anywhere.

    Args:
        maps: of the blocks.
        hyper: parameters.
        features: (n, d) of the labelled rows.
        values: (n,) their losses.
        stds: (n,) standard errors, NaN = unknown.
        pending: (p, d) rows whose label will arrive: they lower the deviation around them and leave the mean.
    """

    def __init__(
        self,
        maps: list[FloatArray],
        hyper: Hyper,
        features: FloatArray,
        values: FloatArray,
        *,
        stds: FloatArray,
        pending: FloatArray | None = None,
    ) -> None:
        self.warp = Warp.of(values, float(np.exp(hyper.shift)))
        self.noise = float(np.exp(hyper.noise)) + NUGGET
        self._reach = _root([np.exp(w / 2) * m for w, m in zip(hyper.reach, maps, strict=True)])
        self._slope = _root([np.exp(w / 2) * m for w, m in zip(hyper.slope, maps, strict=True)])
        self._bend = float(np.exp(hyper.bend))
        n = len(features)
        known = np.concatenate([features, pending]) if pending is not None else features
        self._near, self._along = known @ self._reach, known @ self._slope
        kernel = self._kernel(self._near, self._along)
        self._jitter = float(np.exp(hyper.jitter))
        noise = np.full(len(known), self.noise)
        noise[:n] += (np.where(np.isnan(stds), 0.0, stds) * self.warp.slope(values)) ** 2
        noise[:n] += self._jitter * (self.warp.span * self.warp.slope(values)) ** 2
        kernel[np.diag_indices(len(known))] += noise
        self._root = np.linalg.cholesky(kernel)
        self.z = self.warp.forward(values)
        # Rows that are pending come last, so that the leading block of the root belongs to the labelled ones.
        self.alpha = cho_solve((self._root[:n, :n], True), self.z)
        self._linear = self._slope @ (self._along[:n].T @ self.alpha)
        self._constant = float(self.alpha.sum())
        self.n = n

    def _kernel(self, near: FloatArray, along: FloatArray) -> FloatArray:
        """Returns the prior covariance (k, n) of rows given by their mapped features with the known rows."""
        r = _squares(near, self._near)
        r *= 5.0
        np.sqrt(r, out=r)
        out = np.exp(-r)
        out *= self._bend * (1.0 + r + r * r / 3.0)
        out += along @ self._along.T
        out += 1.0
        return np.asarray(out)

    def mean(self, features: FloatArray) -> FloatArray:
        """Returns the mean of z (k,) at features (k, d)."""
        r = _squares(features @ self._reach, self._near[: self.n])
        r *= 5.0
        np.sqrt(r, out=r)
        matern = np.exp(-r)
        matern *= self._bend * (1.0 + r + r * r / 3.0)
        return np.asarray(matern @ self.alpha + features @ self._linear + self._constant)

    def predict(self, features: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Returns mean and standard deviation of z, without label noise, each (k,), at features (k, d)."""
        mean, variance, _ = self.project(features)
        return mean, np.sqrt(variance)

    def project(self, features: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Returns mean (k,), variance (k,) and the whitened covariance with the known rows (n + p, k).

        The posterior covariance of two rows is their prior one less the product of their whitened columns.
        """
        near, along = features @ self._reach, features @ self._slope
        cross = self._kernel(near, along)
        whitened = solve_triangular(self._root, cross.T, lower=True, check_finite=False)
        prior = 1.0 + self._bend + (along**2).sum(axis=1)
        variance = np.maximum(prior - (whitened**2).sum(axis=0), 1e-10)
        return cross[:, : self.n] @ self.alpha, variance, whitened

    def prior(self, features: FloatArray, one: FloatArray) -> FloatArray:
        """Returns the prior covariance (k,) of rows (k, d) with one row (d,)."""
        r = np.sqrt(5.0 * _squares(features @ self._reach, one[None] @ self._reach)[:, 0])
        linear = (features @ self._slope) @ (one @ self._slope)
        return np.asarray(1.0 + self._bend * (1.0 + r + r * r / 3.0) * np.exp(-r) + linear)

    def peculiar(self, mean: FloatArray) -> FloatArray:
        """Returns the variance of z (k,) that is peculiar to one architecture, where the mean of z is `mean` (k,)."""
        w = self.warp
        return np.asarray(self.noise + self._jitter * np.exp(-2.0 * (w.scale * mean + w.center)) / w.scale**2)

    def leave_one_out(self) -> tuple[FloatArray, FloatArray]:
        """Returns mean and standard deviation of every label z given the others (Rasmussen & Williams, eq. 5.12)."""
        inverse, _ = lapack.dpotri(self._root[: self.n, : self.n], lower=1)
        diagonal = np.diagonal(inverse)
        return self.z - self.alpha / diagonal, np.sqrt(1.0 / diagonal)


def _root(maps: list[FloatArray]) -> FloatArray:
    """Returns a narrow matrix (d, k) with the same outer product as the maps side by side."""
    whole = np.concatenate(maps, axis=1)
    values, vectors = np.linalg.eigh(whole @ whole.T)
    keep = values > 1e-9 * max(values[-1], 1e-300)
    return np.asarray(vectors[:, keep] * np.sqrt(values[keep]))


def _squares(a: FloatArray, b: FloatArray) -> FloatArray:
    """Returns squared distances (n, k) of rows (n, d) and (k, d)."""
    out = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)
    out -= 2.0 * a @ b.T
    return np.maximum(out, 0.0, out=out)
