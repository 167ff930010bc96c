"""What lies behind a predictor's error: how it falls with rows, where it is systematic, and what is noise of labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from predictors.base import FloatArray, Predictor, check_fit_data
from predictors.validation import report
from search_spaces.genes import Value
from search_spaces.space import Population, SearchSpace

SIZES = (10, 20, 50, 100, 200)
LEAST_ROWS = 3
"""Rows that a gene's value must have before its mean residual says anything."""


@dataclass(frozen=True)
class CurvePoint:
    """Errors after training on `rows` rows; `mape` in percent, None where a value is 0, `kendall` for constants."""

    rows: int
    tested: int
    mape: float | None
    rmse: float
    kendall: float | None


def learning_curve(
    make: Callable[[], Predictor],
    population: Population,
    values: FloatArray,
    *,
    sizes: tuple[int, ...] = SIZES,
    seed: int = 0,
    stds: FloatArray | None = None,
) -> list[CurvePoint]:
    """Returns the errors of predictors fitted to the first k rows of one random order, on all rows after them.

    One draw per size: differences of a few per cent between neighbours are luck.

    Args:
        make: returns a new predictor, unfitted.
        population: (n, g); rows that are equal stay together.
        values: (n,).
        sizes: k, ascending; those that leave fewer than 10 rows, or a fifth of all, to test on are left out.
        seed: of the order.
        stds: as for `Predictor.fit`.
    """
    rows, values = check_fit_data(make().space, population, values)
    group = np.unique(rows, axis=0, return_inverse=True)[1].ravel()
    place = np.random.default_rng([seed, len(rows)]).permutation(int(group.max()) + 1)[group]
    order = np.argsort(place, kind="stable")
    out = []
    for size in sizes:
        # Whole groups: a repeat of a training row would be no test.
        train = place <= place[order[min(size, len(rows)) - 1]]
        if (~train).sum() < max(10, len(rows) / 5) or np.ptp(values[train]) == 0:
            continue
        fitted = make().fit(rows[train], values[train], stds=None if stds is None else stds[train])
        found = report(fitted.predict(rows[~train]), values[~train])
        out.append(CurvePoint(int(train.sum()), found.n, found.mape, found.rmse, found.kendall))
    return out


@dataclass(frozen=True)
class StageResidual:
    """The value of a stage's genes whose held-out residuals are least like chance.

    stage: the gene's name up to the first dot.
    gene, value: of the rows in question.
    n: rows with it.
    mean: of their residuals, predicted minus measured; of the value's share where all values are positive.
    z: its distance from the mean of all, in standard errors of n residuals of the whole table's spread. Among a
        hundred gene values one passes 2.6 by chance; 4 is worth a look.
    """

    stage: str
    gene: str
    value: Value
    n: int
    mean: float
    z: float


def stage_residuals(
    space: SearchSpace, population: Population, predicted: FloatArray, values: FloatArray
) -> list[StageResidual]:
    """Returns one line per stage, in the order of the space; stages whose genes never vary are left out.

    Args:
        space: of the population.
        population: (n, g).
        predicted: (n,) of rows the predictor was not fitted on.
        values: (n,) measured.
    """
    rows = space.canonical(population)
    residual = np.asarray(predicted - values, dtype=np.float64)
    if (values > 0).all():
        residual = residual / values
    centred = residual - residual.mean()
    spread = float(residual.std())
    active = space.active(rows)
    found: dict[str, StageResidual] = {}
    for g, gene in enumerate(space.genes):
        stage = gene.name.split(".")[0]
        for choice, value in enumerate(gene.choices):
            mask = active[:, g] & (rows[:, g] == choice)
            n = int(mask.sum())
            if n < LEAST_ROWS or n > len(rows) - LEAST_ROWS:
                continue
            z = float(centred[mask].mean() / spread * np.sqrt(n)) if spread > 0 else 0.0
            if stage not in found or abs(z) > abs(found[stage].z):
                found[stage] = StageResidual(stage, gene.name, value, n, float(residual[mask].mean()), z)
    return list(found.values())


@dataclass(frozen=True)
class LabelNoise:
    """What repeated labels of the same architectures say about one label: no predictor is expected to be nearer to it.

    architectures: with more than one label.
    labels: of these, together.
    std: of one label, pooled over architectures, in the values' unit.
    mape: mean of |label - truth| / |label| in percent, were the truth known; None where a label is 0.
    kendall: tau-b between a first and a second label; None with fewer than 5 architectures or equal labels.
    """

    architectures: int
    labels: int
    std: float
    mape: float | None
    kendall: float | None


def label_noise(population: Population, values: FloatArray) -> LabelNoise | None:
    """Returns the noise of labels (n,) from rows (n, g) that occur more than once; None where none does."""
    values = np.asarray(values, dtype=np.float64)
    group = np.unique(population, axis=0, return_inverse=True)[1].ravel()
    counts = np.bincount(group)
    if counts.max(initial=0) < 2:
        return None
    means = np.bincount(group, weights=values) / counts
    repeated: NDArray[np.bool_] = counts[group] > 1
    n = counts[group][repeated]
    labels = values[repeated]
    # A label is nearer to the mean of its group than to the truth, by sqrt((n - 1) / n).
    away = labels - means[group][repeated]
    error = away * np.sqrt(n / (n - 1))
    std = float(np.sqrt((away**2).sum() / (len(labels) - (counts > 1).sum())))
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.flatnonzero(counts > 1))
    first, second = values[order[starts]], values[order[starts + 1]]
    ranked = len(first) >= 5 and np.ptp(first) > 0 and np.ptp(second) > 0
    return LabelNoise(
        architectures=int((counts > 1).sum()),
        labels=int(repeated.sum()),
        std=std,
        mape=float(100 * np.mean(np.abs(error) / np.abs(labels))) if (labels != 0).all() else None,
        kendall=float(kendalltau(first, second).statistic) if ranked else None,
    )
