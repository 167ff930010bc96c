"""What a search believes, given its history, of the losses and limits of any architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

from hwsearch import pareto
from hwsearch.engines.acquisition import Marginals
from hwsearch.engines.encoding import Encoding
from hwsearch.engines.surrogate import Hyper, Posterior, Warp
from hwsearch.results import History, State
from search_spaces.space import Population

FloatArray = NDArray[np.float64]

MAX_ROWS = 500
"""Labelled rows a surrogate is conditioned on; of longer histories the best and an even selection of the others."""
MAX_PENDING = 128
MIN_LABELS = 4
EXACT_SHIFT = 0.05
"""Shift of the warp of exact losses, which have no surrogate to choose it."""

Fitter = Callable[[int, FloatArray, FloatArray, FloatArray], Hyper]
"""(column, features (n, d), values (n,), standard errors (n,)) -> parameters."""


@dataclass(frozen=True)
class Candidates:
    """Rows and all that is believed of them.

    Args:
        population: (k, g).
        features: (k, d).
        exact: (k, m + c) values that are known, NaN elsewhere.
        mean, variance, whitened: by learned column, as `Posterior.project` gives them.
    """

    population: Population
    features: FloatArray
    exact: FloatArray
    mean: Mapping[int, FloatArray]
    variance: Mapping[int, FloatArray]
    whitened: Mapping[int, FloatArray]

    def __len__(self) -> int:
        return len(self.population)

    def only(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Candidates:
        """Returns some of them, in order."""
        return Candidates(
            self.population[rows],
            self.features[rows],
            self.exact[rows],
            {j: v[rows] for j, v in self.mean.items()},
            {j: v[rows] for j, v in self.variance.items()},
            {j: v[:, rows] for j, v in self.whitened.items()},
        )

    def joined(self, other: Candidates) -> Candidates:
        """Returns these and others."""
        return Candidates(
            np.concatenate([self.population, other.population]),
            np.concatenate([self.features, other.features]),
            np.concatenate([self.exact, other.exact]),
            {j: np.concatenate([v, other.mean[j]]) for j, v in self.mean.items()},
            {j: np.concatenate([v, other.variance[j]]) for j, v in self.variance.items()},
            {j: np.concatenate([v, other.whitened[j]], axis=1) for j, v in self.whitened.items()},
        )


class Beliefs:
    """Surrogates of what is learned, values of what is exact, and the losses known so far.

    Columns are numbered through: m objectives, then c limits. A limit on an objective is recognised by its labels and
    shares that objective's surrogate.

    Args:
        encoding: of architectures.
        maps: column -> the encoding's blocks that its surrogate sees.
        exact: rows -> values (k, m + c), NaN where they must be learned.
        history: all trials.
        fitter: chooses parameters.
        planned: (p, g) rows chosen already, treated like running ones.
    """

    def __init__(
        self,
        encoding: Encoding,
        *,
        maps: Callable[[int], Sequence[FloatArray]],
        exact: Callable[[Population], FloatArray],
        history: History,
        fitter: Fitter,
        planned: Population,
    ) -> None:
        self.encoding, self._exact = encoding, exact
        self.m, self.n_limits = history.losses.shape[1], history.violations.shape[1]
        alive = history.state != State.FAILED
        rows = np.concatenate([history.genotypes[alive], planned])
        missing = np.full((len(planned), self.m + self.n_limits), np.nan)
        labels = np.concatenate([history.losses, history.violations], axis=1)[alive]
        labels = np.where(np.isfinite(labels), labels, np.nan)
        stds = np.concatenate([history.stds, np.full(history.violations.shape, np.nan)], axis=1)[alive]
        values = np.concatenate([labels, missing])
        stds = np.concatenate([stds, missing])
        known = exact(rows)
        self.exact_columns = np.flatnonzero(~np.isnan(known).any(axis=0)) if len(rows) else np.zeros(0, np.intp)
        values[:, self.exact_columns] = known[:, self.exact_columns]
        self.tied = self._tie(values)
        features = encoding.features(rows)
        self.posteriors: dict[int, Posterior] = {}
        self.labelled: dict[int, NDArray[np.intp]] = {}
        learned = [j for j in range(self.m + self.n_limits) if j not in self.exact_columns and j not in self.tied]
        order = self._importance(values)
        for j in learned:
            labelled = np.isfinite(values[:, j])
            if labelled.sum() < MIN_LABELS:
                continue
            pending = np.flatnonzero(~labelled)[-MAX_PENDING:]
            kept = _kept(order[labelled[order]])
            self.labelled[j] = kept
            hyper = fitter(j, features[labelled], values[labelled, j], stds[labelled, j])
            self.posteriors[j] = Posterior(
                maps(j), hyper, features[kept], values[kept, j], stds=stds[kept, j], pending=features[pending]
            )
            posterior = self.posteriors[j]
            if posterior.errors.any():
                # A front of raw labels is one of lucky labels, which nothing seems to improve on.
                noisy = posterior.errors > 0
                values[kept[noisy], j] = posterior.warp.inverse(posterior.truth()[0][noisy])
            if len(pending):
                values[pending, j] = posterior.warp.inverse(posterior.mean(features[pending]))
        self.ready = all(j in self.posteriors for j in learned)
        for c, (j, offset) in self.tied.items():
            values[:, c] = values[:, j] + offset
        self.population, self.values = rows, values
        self.known = np.isfinite(values[:, : self.m]).all(axis=1)
        """Rows whose losses are labelled (known noise taken off) or, while they run, predicted."""

    def _tie(self, values: FloatArray) -> dict[int, tuple[int, float]]:
        """Returns limit column -> (objective column, offset) where violation = loss + offset on all known rows."""
        tied = {}
        for c in range(self.m, self.m + self.n_limits):
            for j in range(self.m):
                both = np.isfinite(values[:, [c, j]]).all(axis=1)
                if both.sum() < 2 or np.ptp(values[both, j]) == 0:
                    continue
                gap = values[both, c] - values[both, j]
                if np.ptp(gap) <= 1e-6 * np.ptp(values[both, j]) and c not in self.exact_columns:
                    tied[c] = (j, float(gap.mean()))
                    break
        return tied

    def _importance(self, values: FloatArray) -> NDArray[np.intp]:
        """Returns all rows, the best fronts first; incomplete ones last."""
        complete = np.isfinite(values).all(axis=1)
        order = np.flatnonzero(complete)
        if len(order) > MAX_ROWS:
            rank = pareto.constrained_ranks(values[order, : self.m], values[order, self.m :])
            order = order[np.argsort(rank, kind="stable")]
        return np.concatenate([order, np.flatnonzero(~complete)])

    # -- losses known so far -------------------------------------------------------------------------

    @property
    def feasible(self) -> NDArray[np.bool_]:
        """Known rows that keep all limits, as far as these are known or predicted."""
        kept = (np.nan_to_num(self.values[:, self.m :], nan=np.inf) <= 0).all(axis=1)
        return np.asarray(self.known & kept)

    def losses(self, rows: NDArray[np.bool_], *, natural: bool) -> FloatArray:
        """Returns losses (k, m) of some known rows, in their own units or warped."""
        values = self.values[rows, : self.m]
        if natural:
            return values
        return np.stack([self.warp(j).forward(values[:, j]) for j in range(self.m)], axis=1)

    def warp(self, column: int) -> Warp:
        """Returns the warp of an objective: its surrogate's, or of the known values if it is exact."""
        if column in self.posteriors:
            return self.posteriors[column].warp
        return Warp.of(self.values[self.known, column], EXACT_SHIFT)

    def draws(self, n: int, rng: np.random.Generator) -> FloatArray:
        """Returns `n` draws (n, r, m + c) of what `values` truly are, from the posterior given labels and their errors.

        Rows are drawn together, so that what labels of like architectures say counts too. What no standard error
        blurs, and what is predicted, is the same in every draw.
        """
        out = np.repeat(self.values[None], n, axis=0)
        for j, posterior in self.posteriors.items():
            mean, covariance = posterior.truth()
            uncertain = np.flatnonzero(np.diagonal(covariance) > 1e-12)
            if not len(uncertain):
                continue
            spectrum, vectors = np.linalg.eigh(covariance[np.ix_(uncertain, uncertain)])
            root = vectors * np.sqrt(np.maximum(spectrum, 0.0))
            noise = rng.standard_normal((n, len(uncertain))) @ root.T
            out[:, self.labelled[j][uncertain], j] = posterior.warp.inverse(mean[uncertain] + noise)
        for c, (j, offset) in self.tied.items():
            out[:, :, c] = out[:, :, j] + offset
        return out

    # -- candidates ----------------------------------------------------------------------------------

    def about(
        self, population: Population, *, features: FloatArray | None = None, exact: FloatArray | None = None
    ) -> Candidates:
        """Returns what is believed of rows (k, g), whose features and exact values may be known already."""
        features = self.encoding.features(population) if features is None else features
        exact = self._exact(population) if exact is None else exact
        mean, variance, whitened = {}, {}, {}
        for j, posterior in self.posteriors.items():
            mean[j], variance[j], whitened[j] = posterior.project(features)
        return Candidates(population, features, exact, mean, variance, whitened)

    def marginals(self, candidates: Candidates, *, natural: bool) -> list[Marginals]:
        """Returns what is believed of each loss, in its own unit or warped; what is peculiar to a row included."""
        out = []
        for j in range(self.m):
            if j not in self.posteriors:
                exact = candidates.exact[:, j]
                value = exact if natural else self.warp(j).forward(exact)
                out.append(Marginals(value, np.zeros(len(value))))
                continue
            mean = candidates.mean[j]
            std = np.sqrt(candidates.variance[j] + self.posteriors[j].peculiar(mean))
            if natural:
                w = self.warp(j)
                out.append(Marginals(w.scale * mean + w.center, w.scale * std, w.end, w.span))
            else:
                out.append(Marginals(mean, std))
        return out

    def log_feasible(self, candidates: Candidates) -> FloatArray:
        """Returns the logarithm of the probability (k,) that a candidate keeps all limits, taken as independent."""
        total = np.zeros(len(candidates))
        for c in range(self.m, self.m + self.n_limits):
            j, offset = self.tied.get(c, (c, 0.0))
            if j not in self.posteriors:
                total += np.where(candidates.exact[:, j] + offset <= 0, 0.0, -np.inf)
                continue
            threshold = float(self.posteriors[j].warp.forward(np.array([-offset]))[0])
            mean = candidates.mean[j]
            std = np.sqrt(candidates.variance[j] + self.posteriors[j].peculiar(mean))
            total += log_ndtr((threshold - mean) / std)
        return total

    def after(self, candidates: Candidates, row: int) -> Candidates:
        """Returns the candidates once one of them has been chosen: less variance around it, the same means."""
        variance, whitened = {}, {}
        for j, posterior in self.posteriors.items():
            white = candidates.whitened[j]
            covariance = posterior.prior(candidates.features, candidates.features[row]) - white.T @ white[:, row]
            own = candidates.variance[j][row] + posterior.peculiar(candidates.mean[j][row : row + 1])[0]
            step = covariance / np.sqrt(own)
            variance[j] = np.maximum(candidates.variance[j] - step**2, 1e-10)
            whitened[j] = np.concatenate([white, step[None]])
        return replace(candidates, variance=variance, whitened=whitened)

    # -- for the inner search ------------------------------------------------------------------------

    def optimistic(self, population: Population, *, deviations: float) -> tuple[FloatArray, FloatArray]:
        """Returns warped losses (k, m) and violations (k, c), each so many deviations better than its mean."""
        features, exact = self.encoding.features(population), self._exact(population)
        out = exact.copy()
        for j, posterior in self.posteriors.items():
            if deviations == 0.0:
                out[:, j] = posterior.mean(features)
            else:
                mean, variance, _ = posterior.project(features)
                out[:, j] = mean - deviations * np.sqrt(variance)
        for j in range(self.m):
            if j not in self.posteriors:
                out[:, j] = self.warp(j).forward(out[:, j])
        for c in range(self.m, self.m + self.n_limits):
            j, offset = self.tied.get(c, (c, 0.0))
            if j in self.posteriors:
                # In z, where 0 is the limit.
                out[:, c] = out[:, j] - self.posteriors[j].warp.forward(np.array([-offset]))[0]
            else:
                out[:, c] = exact[:, j] + offset
        return out[:, : self.m], out[:, self.m :]


def _kept(ordered: NDArray[np.intp]) -> NDArray[np.intp]:
    """Returns at most MAX_ROWS of rows in order of importance: two thirds the first, the others evenly; ascending."""
    if len(ordered) <= MAX_ROWS:
        return np.sort(ordered)
    first = 2 * MAX_ROWS // 3
    others = np.linspace(first, len(ordered) - 1, MAX_ROWS - first).round().astype(np.intp)
    return np.sort(np.concatenate([ordered[:first], ordered[others]]))
