"""Optuna's samplers as search engines: peers behind the same contract."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from hwsearch import pareto
from hwsearch.engines.base import ExactLosses, SearchEngine, fresh_samples, usable
from hwsearch.results import History, State
from search_spaces.populations import not_in, unique_rows
from search_spaces.space import Population, SearchSpace

SAMPLERS = ("tpe", "gp", "nsga2", "nsga3", "random")
MAX_TRIALS = {"tpe": 1000, "gp": 200}
"""How many trials a sampler is told, by the growth of its cost: the best half and the newest half of them."""
CONSTRAINTS = "constraints"
"""Where Optuna's samplers look for the limits of a trial."""


class OptunaSampler(SearchEngine):
    """A sampler of Optuna, for any number of objectives and limits; genes are categorical parameters.

    Every call builds an in-memory study from the history and asks it, so that the answer depends on the history alone.
    What a sampler proposes again is replaced: by its other proposals, by a mutation of one, by a random architecture.

    Args:
        space: what to search.
        n_objectives: number of losses.
        seed: of all random choices.
        exact: not used.
        variant: which sampler: `tpe`, `gp`, `nsga2`, `nsga3` or `random`.
        population: random trials at the start, and the population size of the genetic samplers.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        n_objectives: int,
        variant: str,
        seed: int = 0,
        exact: ExactLosses | None = None,
        population: int = 20,
    ) -> None:
        super().__init__(space, n_objectives=n_objectives, seed=seed, exact=exact)
        if variant not in SAMPLERS:
            raise ValueError(f"engine optuna:<sampler> must be one of {list(SAMPLERS)}, but got {variant!r}.")
        if population < 2:
            raise ValueError(f"engine.population must be at least 2, but got {population}.")
        self.variant, self.population = variant, population
        self._distributions: dict[str, BaseDistribution] = {
            str(i): CategoricalDistribution(list(range(len(gene.choices)))) for i, gene in enumerate(space.genes)
        }

    def propose(self, history: History, count: int) -> Population:
        """Returns up to `count` architectures (k, g): random ones until `population` are known, then the sampler's."""
        rng = self.rng(history)
        n_random = count if len(usable(history)) < 2 else min(count, max(0, self.population - len(history)))
        chosen = fresh_samples(self.space, history.genotypes, n_random, rng)
        if n_random < count:
            seen = np.concatenate([history.genotypes, chosen])
            asked = self._asked(history, count - n_random, seen, rng)
            chosen = np.concatenate([chosen, asked])
        seen = np.concatenate([history.genotypes, chosen])
        return np.concatenate([chosen, fresh_samples(self.space, seen, count - len(chosen), rng)])

    def _asked(self, history: History, count: int, seen: Population, rng: np.random.Generator) -> Population:
        study = self._study(history, int(rng.integers(2**31)))
        new = np.zeros((0, self.space.n_genes), dtype=np.uint8)
        rows: list[list[int]] = []
        for _ in range(2 * count + 4):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                trial = study.ask(fixed_distributions=self._distributions)
            rows.append([trial.params[str(i)] for i in range(self.space.n_genes)])
            new = unique_rows(self.space.canonical(np.array(rows, dtype=np.uint8)))
            new = new[not_in(new, seen)]
            if len(new) == count:
                return new
        # The sampler repeats itself.
        asked = self.space.canonical(np.array(rows, dtype=np.uint8))
        near = self.space.mutate(asked[rng.integers(0, len(asked), 8 * count)], rng, 1.0 / self.space.n_genes)
        both = unique_rows(np.concatenate([new, near]))
        return both[not_in(both, seen)][:count]

    def _study(self, history: History, seed: int) -> optuna.Study:
        study = optuna.create_study(
            directions=["minimize"] * self.n_objectives, sampler=self._sampler(seed, history.violations.shape[1])
        )
        known = history.finished & np.isfinite(history.losses).all(axis=1)
        rows = self._kept(history, np.flatnonzero(known))
        trials = [self._trial(history, int(row), TrialState.COMPLETE, place) for place, row in enumerate(rows)]
        # Only TPE looks at what is running; newest last.
        running = np.flatnonzero(history.state == State.RUNNING)[-128:]
        trials += [self._trial(history, int(row), TrialState.RUNNING, len(rows)) for row in running]
        study.add_trials(trials)
        return study

    def _kept(self, history: History, rows: Any) -> Any:
        limit = MAX_TRIALS.get(self.variant, len(rows))
        if len(rows) <= limit:
            return rows
        rank = pareto.constrained_ranks(history.losses[rows], history.violations[rows])
        best = rows[np.argsort(rank, kind="stable")[: limit // 2]]
        newest = rows[~np.isin(rows, best)][-(limit - limit // 2) :]
        return np.sort(np.concatenate([best, newest]))

    def _trial(self, history: History, row: int, state: TrialState, place: int) -> FrozenTrial:
        system: dict[str, Any] = {CONSTRAINTS: np.nan_to_num(history.violations[row], nan=1e9).tolist()}
        # The genetic samplers find a trial's generation here.
        for kind in ("NSGAIISampler", "NSGAIIISampler"):
            system[f"{kind}:generation"] = place // self.population
        return optuna.trial.create_trial(
            state=state,
            values=history.losses[row].tolist() if state == TrialState.COMPLETE else None,
            params={str(i): int(choice) for i, choice in enumerate(history.genotypes[row])},
            distributions=self._distributions,
            system_attrs=system,
        )

    def _sampler(self, seed: int, n_limits: int) -> optuna.samplers.BaseSampler:
        limits = _stored_constraints if n_limits else None
        samplers = optuna.samplers
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # arguments that are experimental in one version and old in the next
            if self.variant == "tpe":
                return samplers.TPESampler(
                    seed=seed, multivariate=True, n_startup_trials=2, constant_liar=True, constraints_func=limits
                )
            if self.variant == "gp":
                return samplers.GPSampler(seed=seed, n_startup_trials=2, constraints_func=limits)
            if self.variant == "random":
                return samplers.RandomSampler(seed=seed)
            kind = samplers.NSGAIISampler if self.variant == "nsga2" else samplers.NSGAIIISampler
            return kind(seed=seed, population_size=self.population, constraints_func=limits)


def _stored_constraints(trial: FrozenTrial) -> Sequence[float]:
    values: Sequence[float] = trial.system_attrs[CONSTRAINTS]
    return values
