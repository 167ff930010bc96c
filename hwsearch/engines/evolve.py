"""The inner loop: evolves candidates over losses that cost nothing to compute, hundreds of thousands a second."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwsearch.engines.selection import survivors, tournament
from search_spaces.populations import not_in
from search_spaces.space import Population, SearchSpace

FloatArray = NDArray[np.float64]

BatchLosses = Callable[[Population], FloatArray]
"""Population (n, g) -> losses (n, m), all finite; called with thousands of rows at a time."""

BatchLimits = Callable[[Population], FloatArray]
"""Population (n, g) -> violations (n, c), at most 0 = kept."""


@dataclass(frozen=True)
class Evolved:
    """What an inner search found.

    Args:
        population: (k, g) distinct survivors, best first, none of them among the excluded rows.
        losses: (k, m) of them.
        violations: (k, c) of them.
        n_candidates: how many distinct candidates were computed.
    """

    population: Population
    losses: FloatArray
    violations: FloatArray
    n_candidates: int


def evolve(
    space: SearchSpace,
    losses: BatchLosses,
    *,
    rng: np.random.Generator,
    n_candidates: int,
    survive: int = 512,
    offspring: int = 4096,
    start: Population | None = None,
    exclude: Population | None = None,
    limits: BatchLimits | None = None,
    crossover: float = 0.9,
    mutation: float | None = None,
) -> Evolved:
    """Returns the survivors of a (survive + offspring) evolution by constrained rank and crowding.

    NSGA-II's selection with integer operators, in large batches. No candidate is computed twice, and the loop ends
    early when new ones can no longer be found.

    Args:
        space: of the candidates.
        losses: to be minimised.
        rng: of all random choices.
        n_candidates: about how many distinct candidates to compute.
        survive: size of the surviving population.
        offspring: children per generation.
        start: rows that belong to the first generation; the rest of it is random.
        exclude: rows that may be parents but are not returned.
        limits: candidates that keep them all come before those that do not; None for no limits.
        crossover: chance that a child has two parents.
        mutation: chance of every gene to be reset; None for 1 / (number of genes).
    """
    rate = 1.0 / space.n_genes if mutation is None else mutation
    offspring = min(offspring, n_candidates)
    known = RowSet(2 * n_candidates + offspring)
    first = space.sample(offspring, rng)
    if start is not None:
        first = np.concatenate([start, first])
    batch = first[known.add(first)]
    n_computed = 0
    population = batch[:0]
    current = np.zeros((0, 0))
    violations = np.zeros((0, 0))
    order = np.zeros(0, dtype=np.intp)
    while len(batch):
        n_computed += len(batch)
        new = losses(batch)
        new_violations = np.zeros((len(batch), 0)) if limits is None else limits(batch)
        if len(population):
            batch = np.concatenate([population, batch])
            new = np.concatenate([current, new])
            new_violations = np.concatenate([violations, new_violations])
        rows, order = survivors(new, new_violations, survive)
        population, current, violations = batch[rows], new[rows], new_violations[rows]
        if n_computed >= n_candidates:
            break
        batch = _children(space, population, order, offspring, known, rng, crossover, rate)
    if exclude is not None and len(population):
        keep = not_in(population, exclude)
        population, current, violations = population[keep], current[keep], violations[keep]
    return Evolved(population, current, violations, n_computed)


def _children(
    space: SearchSpace,
    parents: Population,
    order: NDArray[np.intp],
    count: int,
    known: RowSet,
    rng: np.random.Generator,
    crossover: float,
    rate: float,
    tries: int = 3,
) -> Population:
    """Returns children never seen before: as many of `count` as are new, after a few tries at least one eighth."""
    found: list[Population] = []
    for _ in range(tries):
        a, b = tournament(order, count, rng), tournament(order, count, rng)
        b = np.where(rng.random(count) < crossover, b, a)
        children = space.mutate(space.crossover(parents[a], parents[b], rng), rng, rate)
        found.append(children[known.add(children)])
        if sum(len(part) for part in found) >= count // 8:
            break
        # Around these parents nearly everything is known: reach further.
        rate = min(1.0, 2 * rate)
    return np.concatenate(found)


class RowSet:
    """A set of rows that remembers which it has seen; for up to `capacity` of them.

    Open addressing on 64-bit keys, vectorised. Two rows share a key with a chance of 2**-64 per pair; the second of
    them then counts as seen, which loses one candidate and nothing else.
    """

    def __init__(self, capacity: int) -> None:
        self._bits = max(10, int(2 * capacity).bit_length())
        self._table = np.zeros(1 << self._bits, dtype=np.uint64)  # 0 = free

    def add(self, rows: Population) -> NDArray[np.bool_]:
        """Returns which rows (n,) are new, and remembers them; of equal rows the first is new."""
        keys = row_hashes(rows)
        new = np.zeros(len(rows), dtype=bool)
        _, pending = np.unique(keys, return_index=True)
        pending = np.sort(pending)
        # Fibonacci hashing: the upper bits are the best mixed.
        slot = (keys[pending] >> np.uint64(64 - self._bits)).astype(np.intp)
        last = len(self._table) - 1
        while len(pending):
            there = self._table[slot]
            free = there == 0
            self._table[slot[free]] = keys[pending[free]]
            # Of several keys that meet in one free slot, one is in; the others go on to the next slot.
            stored = free & (self._table[slot] == keys[pending])
            new[pending[stored]] = True
            on = ~stored & (there != keys[pending])
            pending = pending[on]
            slot = (slot[on] + 1) & last
        return new


_MULTIPLIERS = np.random.default_rng(20_261_122).integers(1, 2**63, 512, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


def row_hashes(rows: Population) -> NDArray[np.uint64]:
    """Returns a 64-bit key per row (n,), never 0, the same in every process: a mixed sum of multiplied words."""
    n, g = rows.shape
    words = -(-g // 8)
    padded = np.zeros((n, 8 * words), dtype=np.uint8)
    padded[:, :g] = rows
    lanes = padded.view(np.uint64)
    key = np.zeros(n, dtype=np.uint64)
    for i in range(words):
        # Each word is mixed before it is added, or swapping two words could go unseen.
        lane = (lanes[:, i] + np.uint64(i + 1)) * _MULTIPLIERS[i % len(_MULTIPLIERS)]
        key = (key ^ lane ^ (lane >> np.uint64(32))) * _MULTIPLIERS[-1 - i % len(_MULTIPLIERS)]
    key ^= key >> np.uint64(29)
    key *= np.uint64(0xBF58476D1CE4E5B9)
    key ^= key >> np.uint64(32)
    key *= np.uint64(0x9E3779B97F4A7C15)
    return np.maximum(key, np.uint64(1))
