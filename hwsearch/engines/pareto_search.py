"""The default engine: surrogates for what is dear, exact values for what is not, and expected hypervolume gain."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hwsearch import pareto
from hwsearch.engines.base import ExactLosses, SearchEngine, filled
from hwsearch.engines.batch import Acquisition, climb
from hwsearch.engines.beliefs import MAX_ROWS, Beliefs, Candidates
from hwsearch.engines.encoding import Columns, Encoding
from hwsearch.engines.evolve import evolve
from hwsearch.engines.initial import extremes, farthest_first, likely_members, spread_sample
from hwsearch.engines.membership import membership
from hwsearch.engines.surrogate import Hyper, fit
from hwsearch.engines.warm_start import Source, check_sources, seeds, source_models
from hwsearch.results import History, Outlook, State
from search_spaces.populations import not_in, unique_rows
from search_spaces.space import Population, SearchSpace

FloatArray = NDArray[np.float64]

ENUMERATED = 10_000
"""Spaces up to this size are scored as a whole."""
HYPER_ROWS = 200
MEMO = 64


class ParetoSearch(SearchEngine):
    """Bayesian search for the front of any number of losses under limits; exact losses are never guessed.

    A space-filling start that holds the extremes; then, for each call: a warped Gaussian process per loss that must be
    learned, fitted on all labels so far, a column's label counting as soon as it is there; candidates from an
    evolution over optimistic predictions and a climb on the acquisition (small spaces: all architectures); a batch by
    expected hypervolume improvement times the chance to keep the limits. Where surrogates do not explain labels they
    have not seen, a share of the batch is drawn at random.

    Args:
        space: what to search.
        n_objectives: number of losses.
        seed: of all random choices.
        exact: losses (and violations) that can be computed for any architecture.
        initial: how many trials the start has; None for 8 and a quarter of the number of genes, 10 to 24.
        inner: about how many candidates the inner evolution computes per call.
        margin: how far beyond the front an improvement still counts, as a share of the front's span.
        sources: trials of other runs or devices: their fronts seed the start, their losses are hints for surrogates.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        n_objectives: int,
        seed: int = 0,
        exact: ExactLosses | None = None,
        initial: int | None = None,
        inner: int = 2000,
        margin: float = 0.1,
        sources: Sequence[Source] = (),
    ) -> None:
        super().__init__(space, n_objectives=n_objectives, seed=seed, exact=exact)
        if initial is not None and initial < 2:
            raise ValueError(f"engine.initial must be at least 2, but got {initial}.")
        if inner < 100:
            raise ValueError(f"engine.inner must be at least 100, but got {inner}.")
        if not margin >= 0.0:
            raise ValueError(f"engine.margin must be at least 0, but got {margin}.")
        self.initial = int(np.clip(8 + space.n_genes // 4, 10, 24)) if initial is None else initial
        self.inner = inner
        self.margin = margin
        self.sources = check_sources(sources, space, n_objectives)
        # May be dropped at any time: they hold functions of the arguments and the history.
        self._hypers: dict[str, Hyper] = {}
        self._design = np.zeros((0, space.n_genes), dtype=np.uint8)
        self._last: tuple[str, Population, Outlook] | None = None

    def propose(self, history: History, count: int) -> Population:
        """Returns up to `count` architectures (k, g); see `SearchEngine.propose`."""
        return self._step(history, count)[0]

    def outlook(self, history: History, count: int) -> Outlook:
        """Returns what `propose(history, count)` is expected to bring; costs nothing right after that call."""
        return self._step(history, count)[1]

    def front_probability(self, history: History) -> FloatArray:
        """Returns the probability (n,) of each trial to be on the true front; see `membership.membership`.

        Of long histories only the best ranks have a chance above 0.
        """
        out = np.zeros(len(history))
        done, beliefs = self._looked_back(history)
        if beliefs is not None:
            out[done] = membership(beliefs, np.random.default_rng([self.seed, len(done), 2]))
        elif len(done):
            kept = np.asarray((history.violations[done] <= 0).all(axis=1))
            out[done] = pareto.front(np.where(kept[:, None], history.losses[done], np.nan))
        return out

    def estimates(self, history: History) -> FloatArray:
        """Returns losses (n, m) less their known noise: posterior means where a label has a standard error."""
        out = history.losses.copy()
        done, beliefs = self._looked_back(history)
        if beliefs is not None:
            out[done] = beliefs.values[:, : self.n_objectives]
        return out

    def _looked_back(self, history: History) -> tuple[NDArray[np.intp], Beliefs | None]:
        """Returns the finished trials (of long histories the best ranks), and what is believed of them once it is."""
        known = np.isfinite(np.concatenate([history.losses, history.violations], axis=1)).all(axis=1)
        done = np.flatnonzero(history.finished & known)
        if len(done) > MAX_ROWS:
            rank = pareto.constrained_ranks(history.losses[done], history.violations[done])
            done = np.sort(done[np.argsort(rank, kind="stable")[:MAX_ROWS]])
        if not len(done):
            return done, None
        part = history.only(done)
        beliefs = self._beliefs(part, part.genotypes[:0])
        return done, beliefs if beliefs.ready else None

    def _step(self, history: History, count: int) -> tuple[Population, Outlook]:
        digest = _digest(history, count)
        if self._last is None or self._last[0] != digest:
            self._last = (digest, *self._compute(history, count))
        return self._last[1], self._last[2]

    def _compute(self, history: History, count: int) -> tuple[Population, Outlook]:
        rng = self.rng(history)
        outlook = Outlook(np.nan, np.nan, np.nan)
        start = self._unseen_start(history, max(0, min(count, self.initial - len(history))))
        chosen = start
        if len(chosen) < count:
            beliefs = self._beliefs(history, chosen)
            if beliefs.ready and beliefs.known.any():
                more, outlook = self._informed(beliefs, history, chosen, count - len(chosen), rng)
            else:
                more = self._unseen_start(history, count)[len(chosen) :]
            chosen = np.concatenate([chosen, more])
        return filled(self.space, history, chosen, count, rng), outlook

    def _unseen_start(self, history: History, count: int) -> Population:
        """Returns up to `count` rows of the start that are not in the history, those within the first 4 `initial`."""
        if count == 0:
            return history.genotypes[:0]
        start = self._start(max(self.initial, min(len(history) + count, 4 * self.initial)))
        return start[not_in(start, history.genotypes)][:count]

    # -- fixed for a run -----------------------------------------------------------------------------

    @cached_property
    def _all(self) -> Population | None:
        return self.space.enumerate() if self.space.size() <= ENUMERATED else None

    @cached_property
    def _all_features(self) -> FloatArray:
        assert self._all is not None
        return self.encoding.features(self._all)

    @cached_property
    def _all_exact(self) -> FloatArray:
        assert self._all is not None
        return self._exact_losses(self._all)

    @cached_property
    def _spread(self) -> Population:
        return spread_sample(self.space, 1000, np.random.default_rng([self.seed, 0]))

    def _exact_losses(self, population: Population) -> FloatArray:
        """Returns what `exact` knows of objectives and limits (n, at least m)."""
        if self.exact is None:
            return np.full((len(population), self.n_objectives), np.nan)
        values = np.asarray(self.exact(population), dtype=np.float64)
        if values.ndim != 2 or values.shape[1] < self.n_objectives:
            raise ValueError(f"exact must give at least {self.n_objectives} columns, but got shape {values.shape}.")
        return values

    @cached_property
    def _costs(self) -> Columns:
        """The exact losses that vary, as features: cost is what accuracy depends on most."""
        values = self._exact_losses(self._spread)[:, : self.n_objectives]
        columns = np.flatnonzero(~np.isnan(values).any(axis=0))
        positive = np.asarray((values[:, columns] > 0).all(axis=0))
        return _ExactColumns(self._exact_losses, columns, positive)

    @cached_property
    def _plain_encoding(self) -> Encoding:
        return Encoding(self.space, self._spread)

    @cached_property
    def _source_columns(self) -> list[tuple[int, Columns]]:
        """(objective, model of a source) of all that sources can say."""
        return [
            (j, model)
            for j in range(self.n_objectives)
            for model in source_models(self.sources, self._plain_encoding, j)
        ]

    @cached_property
    def encoding(self) -> Encoding:
        """What the surrogates see."""
        return Encoding(self.space, self._spread, outside=[self._costs, *(model for _, model in self._source_columns)])

    def _maps(self, column: int) -> list[FloatArray]:
        """Returns the blocks of one column's surrogate: of the sources, those about the same objective."""
        costs, *others = self.encoding.outside_maps
        own = [m for m, (j, _) in zip(others, self._source_columns, strict=True) if j == column]
        return [*self.encoding.inside_maps, *([costs] if costs.any() else []), *own]

    def _start(self, count: int) -> Population:
        """Returns the first `count` architectures of a run, or as many as there are; shorter starts are prefixes."""
        if self.space.size() <= count:
            return self.space.enumerate()
        if len(self._design) < count:
            self._design = self._designed(max(count, min(count + 16, 4 * self.initial)))
        return self._design[:count]

    def _designed(self, count: int) -> Population:
        rng = np.random.default_rng([self.seed, 1])
        pool = unique_rows(np.concatenate([self._spread, self.space.sample(500, rng)]))
        costs = self._costs(self._all if self._all is not None else pool)
        first = extremes(self.space, self._all if self._all is not None else pool, costs)
        warm = seeds(self.sources, max(2, self.initial // 2)) if self.sources else first[:0]
        first = unique_rows(np.concatenate([warm, first]))
        # Fewer candidates than there are make designs of different seeds differ.
        pool = rng.permutation(pool)[:1000]
        if not 0 < costs.shape[1] < self.n_objectives:
            return np.concatenate([first, farthest_first(self.encoding, first, pool, count)])[:count]
        # Evaluations that must start before labels arrive, beyond those that tell the choices apart.
        design = np.concatenate([first, farthest_first(self.encoding, first, pool, self.initial)])[: self.initial]
        more = likely_members(
            self.encoding,
            design,
            count - len(design),
            exact=lambda rows: self._exact_losses(rows)[:, : self.n_objectives],
            space=self.space,
            pool=self._all,
            rng=rng,
        )
        return np.concatenate([design, more])[:count]

    # -- each call -----------------------------------------------------------------------------------

    def _beliefs(self, history: History, planned: Population) -> Beliefs:
        n_limits = history.violations.shape[1]
        width = self.n_objectives + n_limits

        return Beliefs(
            self.encoding,
            maps=self._maps,
            exact=lambda population: _widened(self._exact_losses(population), width),
            history=history,
            fitter=self._fitted,
            planned=planned,
        )

    def _fitted(self, column: int, features: FloatArray, values: FloatArray, stds: FloatArray) -> Hyper:
        """Returns parameters fitted on the first labels, whose number grows in steps of an eighth, and so rarely."""
        n = 4
        while (larger := max(n + 2, n + n // 8)) <= len(values):
            n = larger
        features, values, stds = features[:n], values[:n], stds[:n]
        if n > HYPER_ROWS:
            order = np.argsort(values, kind="stable")
            half = HYPER_ROWS // 2
            others = np.linspace(half, n - 1, HYPER_ROWS - half).round().astype(np.intp)
            keep = np.sort(np.concatenate([order[:half], order[others]]))
            features, values, stds = features[keep], values[keep], stds[keep]
        digest = hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in (features, values, stds)))
        key = f"{column}-{digest.hexdigest()}"
        if key not in self._hypers:
            if len(self._hypers) >= MEMO:
                self._hypers.clear()
            is_loss = column < self.n_objectives
            self._hypers[key] = fit(self._maps(column), features, values, stds=stds, warped=is_loss)
        return self._hypers[key]

    def _informed(
        self, beliefs: Beliefs, history: History, planned: Population, count: int, rng: np.random.Generator
    ) -> tuple[Population, Outlook]:
        """Returns up to `count` rows by acquisition, fewer if a share is to be random, and the outlook."""
        seen = np.concatenate([history.genotypes, planned])
        acquisition = Acquisition(beliefs, margin=self.margin)
        candidates = self._candidates(beliefs, acquisition, seen, rng)
        if not len(candidates):
            return candidates.population, Outlook(0.0, np.nan, np.nan)
        trust = min((p.trust() for p in beliefs.posteriors.values()), default=1.0)
        labelled = int((history.state == State.FINISHED).sum())
        share = 0.0 if labelled < self.initial + 8 else float(np.clip(2.0 * (0.25 - trust), 0.0, 0.5))
        n_random = int(rng.binomial(count, share))
        rows, gains = acquisition.choose(candidates, count)
        gain = sum(gains) / acquisition.volume if acquisition.volume > 0 else np.nan
        feasible = float(np.exp(beliefs.log_feasible(candidates).max()))
        return candidates.population[rows[: count - n_random]], Outlook(float(gain), float(trust), feasible)

    def _candidates(
        self, beliefs: Beliefs, acquisition: Acquisition, seen: Population, rng: np.random.Generator
    ) -> Candidates:
        """Returns the rows that are scored, none of them seen; the acquisition is calibrated on them."""
        if self._all is not None:
            new = not_in(self._all, seen)
            exact = _widened(self._all_exact[new], beliefs.m + beliefs.n_limits)
            candidates = beliefs.about(self._all[new], features=self._all_features[new], exact=exact)
            if len(candidates):
                acquisition.calibrate(candidates)
            return candidates
        known = beliefs.population[beliefs.known]
        rank = pareto.constrained_ranks(
            beliefs.losses(beliefs.known, natural=True), beliefs.values[beliefs.known, beliefs.m :]
        )
        good = known[np.argsort(rank, kind="stable")[:128]]
        deviations = float(rng.choice([0.0, 0.5, 1.0]))
        memo: dict[bytes, tuple[FloatArray, FloatArray]] = {}

        def both(rows: Population) -> tuple[FloatArray, FloatArray]:
            key = rows.tobytes()
            if key not in memo:
                memo.clear()
                memo[key] = beliefs.optimistic(rows, deviations=deviations)
            return memo[key]

        evolved = evolve(
            self.space,
            lambda rows: both(rows)[0],
            rng=rng,
            n_candidates=self.inner,
            survive=256,
            offspring=512,
            start=np.concatenate([good, spread_sample(self.space, 256, rng)]),
            limits=(lambda rows: both(rows)[1]) if beliefs.n_limits else None,
        )
        best = known[rank == 0]
        near = self.space.mutate(best[rng.integers(0, len(best), 256)], rng, 1.0 / self.space.n_genes)
        pool = unique_rows(np.concatenate([evolved.population, near]))
        pool = pool[not_in(pool, seen)]
        candidates = beliefs.about(pool)
        if not len(candidates):
            return candidates
        acquisition.calibrate(candidates)
        children = int(np.clip(self.inner // 4, 64, 512))
        return climb(
            acquisition, candidates, self.space, exclude=seen, rounds=12, children=children, parents=64, rng=rng
        )


class _ExactColumns:
    """Some columns of exact losses as features: logarithms where all are positive."""

    def __init__(self, exact: Columns, columns: NDArray[np.intp], positive: NDArray[np.bool_]) -> None:
        self._exact, self._columns, self._positive = exact, columns, positive

    def __call__(self, population: Population) -> FloatArray:
        if not len(self._columns):
            return np.zeros((len(population), 0))
        values = self._exact(population)[:, self._columns]
        return np.where(self._positive, np.log(np.maximum(values, 1e-300)), values)


def _widened(values: FloatArray, width: int) -> FloatArray:
    """Returns exact values with a column for every objective and limit, NaN where `exact` gave none."""
    if values.shape[1] > width:
        raise ValueError(f"exact must give at most {width} columns, but got {values.shape[1]}.")
    return np.concatenate([values, np.full((len(values), width - values.shape[1]), np.nan)], axis=1)


def _digest(history: History, count: int) -> str:
    arrays = (history.genotypes, history.losses, history.violations, history.state, history.stds)
    content = b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)
    return hashlib.sha256(content + f"{[a.shape for a in arrays]}{count}".encode()).hexdigest()
