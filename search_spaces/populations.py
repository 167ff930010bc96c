"""Populations: genotypes as the rows of one array, and sets of them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Population = NDArray[np.uint8]
"""Choice indices, shape (n, g), C order."""


def row_keys(population: Population) -> NDArray[np.void]:
    """Returns one opaque, comparable key per row (n,), for set operations on populations."""
    population = np.ascontiguousarray(population, dtype=np.uint8)
    return population.view(np.dtype((np.void, population.shape[1]))).ravel()


def unique_rows(population: Population) -> Population:
    """Returns the distinct rows in order of first appearance."""
    _, first = np.unique(row_keys(population), return_index=True)
    rows: Population = population[np.sort(first)]
    return rows


def not_in(population: Population, seen: Population) -> NDArray[np.bool_]:
    """Returns which rows (n,) of `population` do not occur in `seen`."""
    if len(seen) == 0 or len(population) == 0:
        return np.ones(len(population), dtype=bool)
    # A projection finds the few rows worth comparing; its sums are whole numbers that a float holds exactly.
    weights = _projection(population.shape[1])
    near = np.isin(seen @ weights, population @ weights)
    known = {row.tobytes() for row in np.ascontiguousarray(seen[near], dtype=np.uint8)}
    return np.array([row.tobytes() not in known for row in np.ascontiguousarray(population)])


@lru_cache(maxsize=16)
def _projection(n_genes: int) -> NDArray[np.float64]:
    """Returns whole numbers (g,) whose sum, each times a choice index below 256, a float64 holds exactly."""
    bits = 53 - 8 - max(1, n_genes).bit_length()
    return np.random.default_rng(0).integers(1, 2**bits, size=n_genes).astype(np.float64)
