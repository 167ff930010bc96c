"""The contract of search engines: pure functions from a history to the next architectures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hwsearch.results import History, Outlook
from search_spaces.populations import not_in, unique_rows
from search_spaces.space import Population, SearchSpace

ExactLosses = Callable[[Population], NDArray[np.float64]]
"""Population (n, g) -> losses (n, m), NaN in the columns of objectives that must be evaluated or measured.

May have more columns: then the violations of all limits follow, (n, m + c), NaN likewise."""


class SearchEngine(ABC):
    """Proposes what to evaluate next. Pure: the same arguments to `propose` give the same answer in any process.

    Args:
        space: what to search.
        n_objectives: number of losses, at least 1.
        seed: of all random choices.
        exact: losses that can be computed for any architecture without evaluating it; None if there are none.
    """

    max_objectives: int | None = None
    """How many objectives the engine supports; None for any number."""

    def __init__(
        self, space: SearchSpace, *, n_objectives: int, seed: int = 0, exact: ExactLosses | None = None
    ) -> None:
        if n_objectives < 1:
            raise ValueError(f"n_objectives must be at least 1, but got {n_objectives}.")
        if self.max_objectives is not None and n_objectives > self.max_objectives:
            raise ValueError(
                f"engine {type(self).__name__} supports at most {self.max_objectives} objectives, "
                f"but got {n_objectives}."
            )
        self.space = space
        self.n_objectives = n_objectives
        self.seed = seed
        self.exact = exact

    @abstractmethod
    def propose(self, history: History, count: int) -> Population:
        """Returns up to `count` distinct canonical architectures (k, g) that are not in the history.

        Fewer than `count` only when the space has no more; none when it is exhausted.

        Args:
            history: finished, failed and running trials.
            count: at least 1.
        """

    def outlook(self, history: History, count: int) -> Outlook | None:
        """Returns what `propose(history, count)` is expected to bring; None of engines that cannot say."""
        return None

    def front_probability(self, history: History) -> NDArray[np.float64] | None:
        """Returns the probability (n,) of each trial to be on the true front; None of engines that cannot say.

        Labels count with their standard errors; one without is taken for true.
        """
        return None

    def rng(self, history: History) -> np.random.Generator:
        """Returns the generator for one call: seeded by the engine's seed and the number of known trials."""
        return np.random.default_rng([self.seed, len(history)])


def usable(history: History) -> History:
    """Returns the trials that an engine can learn from: finished, with every loss known and finite."""
    return history.only(history.finished & np.isfinite(history.losses).all(axis=1))


def fresh_samples(
    space: SearchSpace, seen: Population, count: int, rng: np.random.Generator, *, tries: int = 20
) -> Population:
    """Returns up to `count` distinct architectures (k, g), uniform over those not in `seen`; fewer only when no more.

    Rejection sampling; a space that is nearly used up is enumerated instead.
    """
    chosen = np.zeros((0, space.n_genes), dtype=np.uint8)
    for _ in range(tries):
        missing = count - len(chosen)
        if missing == 0:
            return chosen
        drawn = unique_rows(space.sample(2 * missing + 8, rng))
        drawn = drawn[not_in(drawn, np.concatenate([seen, chosen]))]
        chosen = np.concatenate([chosen, drawn[:missing]])
    if len(chosen) < count and space.size() <= 1_000_000:
        rest = space.enumerate()
        rest = rest[not_in(rest, np.concatenate([seen, chosen]))]
        chosen = np.concatenate([chosen, rng.permutation(rest)[: count - len(chosen)]])
    return chosen


def filled(
    space: SearchSpace, history: History, chosen: Population, count: int, rng: np.random.Generator
) -> Population:
    """Returns what an engine chose and, up to `count` rows, random architectures that are new beside it."""
    seen = np.concatenate([history.genotypes, chosen])
    return np.concatenate([chosen, fresh_samples(space, seen, count - len(chosen), rng)])


def random_first(
    engine: SearchEngine,
    history: History,
    count: int,
    *,
    initial: int,
    informed: Callable[[History, Population, int, np.random.Generator], Population],
) -> Population:
    """Returns up to `count` rows: random ones until `initial` trials are known, then informed ones.

    Args:
        engine: says the space and the random numbers.
        history: all trials.
        count: at least 1.
        initial: trials of the start.
        informed: (usable trials, rows not to propose, how many, rng) -> up to as many new rows.
    """
    rng = engine.rng(history)
    done = usable(history)
    n_random = count if len(done) < 2 else min(count, max(0, initial - len(history)))
    chosen = fresh_samples(engine.space, history.genotypes, n_random, rng)
    if n_random < count:
        seen = np.concatenate([history.genotypes, chosen])
        chosen = np.concatenate([chosen, informed(done, seen, count - n_random, rng)])
    return filled(engine.space, history, chosen, count, rng)
