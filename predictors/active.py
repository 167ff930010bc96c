"""What to measure next: the architectures that tell a predictor most, spread out first."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from predictors.base import FloatArray
from search_spaces.populations import not_in, unique_rows
from search_spaces.space import Population, SearchSpace

POOL = 2000


def choose_next(
    space: SearchSpace,
    measured: Population,
    count: int,
    *,
    embed: Callable[[Population], FloatArray],
    rng: np.random.Generator,
    pool: Population | None = None,
    noise: float = 1.0,
) -> Population:
    """Returns up to `count` architectures (k, g), not measured yet, whose values say most about all others'.

    Greedy: each next one has the largest posterior variance of a Gaussian process with a linear kernel on `embed`,
    given those measured and chosen, which is the determinant's greedy maximum (D-optimal design; Krause et al. 2008,
    eq. 3). With nothing measured that is the spread of a space-filling design; later it is the expected information.

    Args:
        space: of the populations.
        measured: (n, g).
        count: at least 1.
        embed: population -> features (n, d): for a transfer, the sources' answers; else the predictor's features. They
            are centred and scaled here.
        rng: draws the pool.
        pool: (p, g) to choose from; None draws 2,000 architectures and half as many with evenly spread genes.
        noise: variance of one measurement, where the embedding's own is 4. Below 1 the choice goes to extremes, where
            noise often grows.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, but got {count}.")
    if pool is None:
        even = (rng.random((POOL // 2, space.n_genes)) * space.n_choices).astype(np.uint8)
        pool = np.concatenate([space.sample(POOL, rng), space.canonical(even)])
    else:
        pool = space.canonical(pool)
    pool = unique_rows(pool[not_in(pool, measured)])
    if len(pool) <= count:
        return pool
    z = np.asarray(embed(np.concatenate([pool, measured])), dtype=np.float64)
    z = z - z[: len(pool)].mean(axis=0)
    z *= 2.0 / max(float(np.sqrt(z[: len(pool)].var(axis=0).sum())), 1e-12)
    z_pool, z_known = z[: len(pool)], z[len(pool) :]
    chosen = greedy(z_pool, min(count, len(pool)), known=z_known, noise=noise)
    rows: Population = pool[chosen]
    return rows


def greedy(z: FloatArray, count: int, *, known: FloatArray, noise: float) -> NDArray[np.intp]:
    """Returns the indices (count,) of rows of z (p, d) of largest posterior variance, one after another.

    The process has covariance z z'; `known` (m, d) were observed with variance `noise`, as is each chosen one.
    """
    d = z.shape[1]
    precision = np.eye(d) + known.T @ known / noise
    cov = np.linalg.inv(precision)
    variance = np.einsum("ij,jk,ik->i", z, cov, z)
    out = np.empty(count, dtype=np.intp)
    for i in range(count):
        best = int(np.argmax(variance))
        out[i] = best
        step = cov @ z[best] / np.sqrt(noise + max(float(z[best] @ cov @ z[best]), 0.0))
        cov = cov - np.outer(step, step)
        variance = variance - (z @ step) ** 2
        variance[best] = -np.inf
    return out
