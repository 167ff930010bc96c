"""Losses and limits as light predictors see them: one model per column, exact columns as they are."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestRegressor
from sklearn.svm import SVR

from hwsearch.engines.base import ExactLosses
from hwsearch.results import History, State
from predictors.regression import Sample, fold_of
from predictors.ridge import RidgeRegressor
from search_spaces.space import Population, SearchSpace

FloatArray = NDArray[np.float64]

Model = Callable[[Population], FloatArray]
"""Population (n, g) -> values (n,)."""

Learner = Callable[[SearchSpace, Population, FloatArray], Model]
"""Space, labelled rows (n, g) and finite labels (n,), not all equal -> model."""

MIN_LABELS = 4
SVR_COSTS = (1.0, 3.0, 10.0, 30.0, 100.0)
SVR_FOLDS = 5
MAX_LABELS = 600
"""The newest labels that are learned from: the cost of support vectors grows with the square of their number."""


class Additive:
    """A sum over active genes of one number per choice: a linear model on one-hot genes, by table look-up.

    Args:
        space: of the populations.
        constant: added to every sum.
        weights: (d,) in the order of genes and their choices.
    """

    def __init__(self, space: SearchSpace, constant: float, weights: FloatArray) -> None:
        starts = np.cumsum([0, *(len(gene.choices) for gene in space.genes)])
        self._space, self._constant = space, constant
        self._tables = [weights[a:b] for a, b in pairwise(starts)]
        self.weights = weights
        self._hidden = [i for i, gene in enumerate(space.genes) if gene.active_when]

    @classmethod
    def fit(cls, space: SearchSpace, rows: Population, values: FloatArray) -> Additive:
        """Returns the ridge regression whose strength leave-one-out chooses."""
        ridge = RidgeRegressor().fit(Sample.of(one_hot(space, rows), values))
        width = int(space.n_choices.sum())
        constant = float(ridge.predict(np.zeros((1, width)))[0][0])
        return cls(space, constant, ridge.arrays()["weights"])

    def __call__(self, population: Population) -> FloatArray:
        """Returns the sums (n,)."""
        columns = np.ascontiguousarray(population.T)
        active = self._space.active(population) if self._hidden else None
        total = np.full(len(population), self._constant)
        for i, table in enumerate(self._tables):
            part = table.take(columns[i])
            if active is not None and i in self._hidden:
                part *= active[:, i]
            total += part
        return total


def one_hot(space: SearchSpace, population: Population) -> FloatArray:
    """Returns one column per gene and choice (n, d): 1 where the gene is active and holds the choice."""
    starts = np.cumsum([0, *(len(gene.choices) for gene in space.genes)])
    out = np.zeros((len(population), int(starts[-1])))
    out[np.arange(len(population))[:, None], starts[:-1] + population] = space.active(population)
    return out


def ridge_or_svr(space: SearchSpace, rows: Population, values: FloatArray) -> Model:
    """Returns the better of ridge and support vector regression on one-hot genes, by held-out errors.

    The pair that LINAS uses (Cummings et al. 2022); ridge by exact leave-one-out, SVR by five folds over a coarse grid
    of costs.
    """
    x = one_hot(space, rows)
    level, spread = float(values.mean()), float(values.std())
    y = (values - level) / spread
    ridge = RidgeRegressor().fit(Sample.of(x, y))
    best = float(((ridge.held_out().mean - y) ** 2).mean())
    fold = fold_of(np.arange(len(y)), SVR_FOLDS)
    chosen: float | None = None
    for cost in SVR_COSTS:
        error = np.empty(len(y))
        for k in range(int(fold.max()) + 1):
            test = fold == k
            error[test] = _svr(cost).fit(x[~test], y[~test]).predict(x[test]) - y[test]
        if float((error**2).mean()) < best:
            best, chosen = float((error**2).mean()), cost
    if chosen is None:
        return Additive.fit(space, rows, values)
    svr = _svr(chosen).fit(x, y)
    return lambda population: np.asarray(level + spread * svr.predict(one_hot(space, population)), dtype=np.float64)


def _svr(cost: float) -> SVR:
    return SVR(kernel="rbf", gamma="auto", C=cost, epsilon=0.01)


def random_forest(space: SearchSpace, rows: Population, values: FloatArray, n_trees: int = 50) -> Model:
    """Returns a random forest on one-hot genes; deterministic."""
    forest = RandomForestRegressor(n_estimators=n_trees, min_samples_leaf=1, max_features=0.5, random_state=0, n_jobs=1)
    forest.fit(one_hot(space, rows), values)
    return lambda population: np.asarray(forest.predict(one_hot(space, population)), dtype=np.float64)


class Predicted:
    """Losses and violations of any population, each column exact, learned or, with too few labels, flat.

    Args:
        space: of the populations.
        history: all trials; every label that is there counts, also of trials that still run.
        exact: see `ExactLosses`.
        learner: makes a model from labels.
    """

    def __init__(self, space: SearchSpace, history: History, *, exact: ExactLosses | None, learner: Learner) -> None:
        self._exact = exact
        self._m = history.losses.shape[1]
        alive = history.state != State.FAILED
        rows = history.genotypes[alive]
        values = np.concatenate([history.losses, history.violations], axis=1)[alive]
        known = exact(space.sample(2, np.random.default_rng(0))) if exact is not None else np.zeros((2, 0))
        self._models: list[Model | None] = []
        for j in range(values.shape[1]):
            if j < known.shape[1] and not np.isnan(known[:, j]).any():
                self._models.append(None)
                continue
            labelled = np.flatnonzero(np.isfinite(values[:, j]))[-MAX_LABELS:]
            labels = values[labelled, j]
            if len(labels) < MIN_LABELS or np.ptp(labels) == 0:
                level = float(labels.mean()) if len(labels) else 0.0
                self._models.append(Additive(space, level, np.zeros(int(space.n_choices.sum()))))
                continue
            self._models.append(learner(space, rows[labelled], labels))

    def _columns(self, population: Population, columns: range) -> FloatArray:
        out = np.empty((len(population), len(columns)))
        exact: FloatArray | None = None
        for k, j in enumerate(columns):
            model = self._models[j]
            if model is None:
                assert self._exact is not None
                exact = self._exact(population) if exact is None else exact
                out[:, k] = exact[:, j]
            else:
                out[:, k] = model(population)
        return out

    def losses(self, population: Population) -> FloatArray:
        """Returns predicted losses (n, m)."""
        return self._columns(population, range(self._m))

    def violations(self, population: Population) -> FloatArray:
        """Returns predicted violations (n, c)."""
        return self._columns(population, range(self._m, len(self._models)))
