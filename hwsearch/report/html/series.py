"""What the report computes from trials: hypervolume over trials, the band of random searches, effects of genes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwsearch import pareto
from hwsearch.pareto import Box
from search_spaces.space import Population, SearchSpace

FloatArray = NDArray[np.float64]
CHECKPOINTS = 80
"""Points of a curve; the hypervolume of each costs up to milliseconds."""
SEARCHES = 20
"""Random searches behind a band."""


def checkpoints(n: int) -> NDArray[np.intp]:
    """Returns at which numbers of trials a curve is drawn: all of few, at even ratios of many; ends with n."""
    if n <= CHECKPOINTS:
        return np.arange(1, n + 1)
    return np.unique(np.round(np.geomspace(1, n, CHECKPOINTS)).astype(np.intp))


def growth(losses: FloatArray, box: Box, at: NDArray[np.intp]) -> FloatArray:
    """Returns the share (len(at),) that the first trials dominate.

    Args:
        losses: (n, m) in the order of the trials; a row with NaN (failed, passes a limit) adds nothing.
        box: what they are shares of.
        at: increasing numbers of trials.
    """
    best = np.zeros((0, losses.shape[1]))
    out, before = [], 0
    for end in at:
        new = losses[before:end]
        best = np.concatenate([best, new[~np.isnan(new).any(axis=1)]])
        best = best[pareto.front(best)]
        out.append(box.share(best))
        before = end
    return np.array(out)


def band(searches: Sequence[FloatArray], box: Box, at: NDArray[np.intp]) -> FloatArray:
    """Returns lowest decile, median and highest decile (3, len(at)) of the growth of several searches."""
    curves = np.stack([growth(losses, box, at) for losses in searches])
    deciles: FloatArray = np.quantile(curves, [0.1, 0.5, 0.9], axis=0)
    return deciles


def random_searches(pool: FloatArray, length: int, *, seed: int) -> list[FloatArray]:
    """Returns `SEARCHES` random searches: rows of a pool (p, m) in random order, each `length` long, none twice."""
    rng = np.random.default_rng([seed, length])
    return [pool[rng.permutation(len(pool))[:length]] for _ in range(SEARCHES)]


@dataclass(frozen=True)
class Effect:
    """What a choice does to a metric, all other genes being equal.

    Args:
        gene, choice: which; the choice None is where the gene is inactive.
        mean: difference to the average trial, in the metric's unit.
        half_width: of its 95 % interval.
        n: trials with it.
    """

    gene: str
    choice: object
    mean: float
    half_width: float
    n: int


@dataclass(frozen=True)
class Effects:
    """Main effects of all genes: `shares` of the metric's variance by gene, largest first, and `r2` of all together."""

    shares: dict[str, float]
    effects: tuple[Effect, ...]
    r2: float


def effects(space: SearchSpace, population: Population, values: FloatArray) -> Effects | None:
    """Returns the main effect of every choice that was tried, by ridge regression on all choices at once.

    The model is additive, y = mean + sum of the choices' effects; `r2` says how much that explains. The intervals are
    those of the ridge estimator, (X'X + I)^-1 X'X (X'X + I)^-1 times the residual variance (Hoerl & Kennard 1970,
    eq. 2.6, with k = 1: genes of a search are often tied to each other, and least squares would have no answer).

    Args:
        space: of the architectures.
        population: (n, g).
        values: (n,), finite.

    Returns:
        None when there is nothing to tell it from: fewer than 8 trials, or all values are equal.
    """
    n = len(values)
    if n < 8 or np.ptp(values) == 0:
        return None
    active = space.active(population)
    columns: list[FloatArray] = []
    labels: list[tuple[int, object]] = []
    for j, gene in enumerate(space.genes):
        codes = np.where(active[:, j], population[:, j].astype(np.int64), -1)
        for code in np.unique(codes):
            columns.append((codes == code).astype(np.float64))
            labels.append((j, None if code < 0 else gene.choices[int(code)]))
    raw = np.stack(columns, axis=1)  # (n, d)
    x = raw - raw.mean(axis=0)
    y = values - values.mean()
    inverse = np.linalg.inv(x.T @ x + np.eye(x.shape[1]))
    beta = inverse @ (x.T @ y)
    residual = y - x @ beta
    freedom = max(1.0, n - 1 - float(np.einsum("ij,ji->", inverse, x.T @ x)))
    covariance = inverse @ (x.T @ x) @ inverse * float(residual @ residual) / freedom
    counts = raw.sum(axis=0)
    shares, found = {}, []
    for j, gene in enumerate(space.genes):
        own = [d for d, (i, _) in enumerate(labels) if i == j]
        if len(own) < 2:
            continue  # it never varied
        shares[gene.name] = float(np.var(x[:, own] @ beta[own]) / np.var(y))
        for d in own:
            contrast = np.zeros(len(labels))
            contrast[own] = -counts[own] / n
            contrast[d] += 1.0
            half = 1.96 * float(np.sqrt(max(0.0, contrast @ covariance @ contrast)))
            found.append(Effect(gene.name, labels[d][1], float(contrast @ beta), half, int(counts[d])))
    ordered = dict(sorted(shares.items(), key=lambda item: -item[1]))
    return Effects(ordered, tuple(found), float(1.0 - (residual @ residual) / (y @ y)))
