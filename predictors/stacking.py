"""Stacking: how much each of several models counts, from what they say of rows that they have not seen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from predictors.base import FloatArray
from predictors.regression import fold_of

BOOTSTRAPS = 48
FORGET = 0.03
"""Weights below this share are dropped: such a model costs time and changes nothing."""


def stack_weights(held: FloatArray, values: FloatArray, group: NDArray[np.intp], *, relative: bool) -> FloatArray:
    """Returns non-negative weights (k,) that sum to 1 (Breiman 1996, stacked regressions).

    They minimise the squared held-out error of the weighted mean, with large errors counting linearly (Huber), and are
    averaged over Bayesian bootstraps of the rows (Rubin 1981), which keeps few rows from choosing one model by luck.

    Args:
        held: (k, n) held-out means.
        values: (n,).
        group: (n,) number of the row's architecture; equal ones are drawn together.
        relative: errors count relative to the value.
    """
    k, n = held.shape
    if k == 1:
        return np.ones(1)
    error = held - values  # weights sum to 1: the error of the mean is the mean of the errors
    if relative:
        error = error / np.abs(values)
    typical = np.median(np.abs(error), axis=1).min()
    best = np.abs(error[np.argmin(np.mean(np.minimum(np.abs(error), 4 * max(typical, 1e-300)), axis=1))])
    huber = 1 / np.maximum(1.0, best / max(2 * float(np.median(best)), 1e-300))
    rng = np.random.default_rng(n)
    names, member = np.unique(group, return_inverse=True)
    total = np.zeros(k)
    for _ in range(BOOTSTRAPS):
        draw = rng.exponential(size=len(names))[member.ravel()] * huber
        gram = (error * draw) @ error.T / draw.sum()
        gram += 1e-3 * np.trace(gram) / k * np.eye(k) + 1e-300 * np.eye(k)
        root = np.linalg.cholesky(gram).T
        # min |root w| with sum w = 1, w >= 0: a heavy row holds the sum.
        heavy = 1e3 * np.sqrt(np.trace(gram))
        target = np.zeros(k + 1)
        target[-1] = heavy
        solution, _ = nnls(np.concatenate([root, np.full((1, k), heavy)]), target)
        total += solution / solution.sum()
    total /= BOOTSTRAPS
    total[total < FORGET] = 0.0
    return np.asarray(total / total.sum(), dtype=np.float64)


def nested_mean(
    held: FloatArray, values: FloatArray, group: NDArray[np.intp], *, relative: bool, k: int = 5
) -> FloatArray:
    """Returns for each row (n,) the held-out answer of the stack whose weights did not see the row's fold either."""
    fold = fold_of(group, k)
    out = held.mean(axis=0)
    if fold.max() == 0:
        return np.asarray(out, dtype=np.float64)
    for i in range(int(fold.max()) + 1):
        test = fold == i
        out[test] = stack_weights(held[:, ~test], values[~test], group[~test], relative=relative) @ held[:, test]
    return np.asarray(out, dtype=np.float64)
