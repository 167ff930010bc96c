"""Block: feature columns that belong together, and Reading: a population read once for all blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from predictors.base import FloatArray, LayerFunction
from search_spaces.layers import LayerSpec
from search_spaces.space import Population, SearchSpace

FEW_ROWS = 64
"""Up to here one step over all columns is faster than one step per column."""


class Reading:
    """What blocks read of a population, each part computed once and only when it is wanted."""

    def __init__(self, space: SearchSpace, population: Population, layers: LayerFunction | None = None) -> None:
        self.space = space
        self.rows = space.canonical(population)
        self._layers = layers

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def active(self) -> NDArray[np.bool_]:
        """Which genes matter, (n, g)."""
        return self.space.active(self.rows)

    @cached_property
    def hot(self) -> FloatArray:
        """One column per gene and distinct choice of `hot_choices`: 1 where active and chosen, (n, h)."""
        genes, choices = hot_choices(self.space)
        if len(self.rows) <= FEW_ROWS:
            return np.asarray((self.rows[:, genes] == choices) & self.active[:, genes], dtype=np.float64)
        out = np.empty((len(self.rows), len(genes)), order="F")  # columns are written one by one
        for gene in range(self.space.n_genes):
            column, active = self.rows[:, gene], self.active[:, gene]
            always = bool(active.all())
            for i in np.flatnonzero(genes == gene):
                hit = column == choices[i]
                out[:, i] = hit if always else hit & active
        return out

    @cached_property
    def layers(self) -> list[LayerSpec]:
        """Layers with sizes (n,)."""
        if self._layers is None:
            raise ValueError("layer costs must be given the layers of the space's networks, but got none.")
        return self._layers(self.rows)


@dataclass(frozen=True)
class Block:
    """Features that belong together.

    Args:
        name: of the block.
        columns: names of its d columns.
        matrix: reading of n architectures -> (n, d), non-negative.
        per_column: whether columns are brought to one spread each (costs) or all by one factor (indicators, whose
            rare choices should stay small).
    """

    name: str
    columns: tuple[str, ...]
    matrix: Callable[[Reading], FloatArray]
    per_column: bool = False

    def only(self, kept: NDArray[np.bool_]) -> Block:
        """Returns the block of some columns."""
        if kept.all():
            return self
        whole = self.matrix
        names = tuple(c for c, keep in zip(self.columns, kept, strict=True) if keep)
        return Block(self.name, names, lambda reading: whole(reading)[:, kept], self.per_column)


def hot_choices(space: SearchSpace) -> tuple[NDArray[np.intp], NDArray[np.uint8]]:
    """Returns gene and choice index of every one-hot column, each (h,).

    Aliases count as what they stand for; a gene with one choice that is always active tells nothing and has no column.
    """
    wanted: list[tuple[int, int]] = []
    for position, gene in enumerate(space.genes):
        distinct = gene.representatives()
        if len(distinct) > 1 or gene.active_when:
            wanted += [(position, choice) for choice in distinct]
    genes = np.array([g for g, _ in wanted], dtype=np.intp)
    return genes, np.array([c for _, c in wanted], dtype=np.uint8)
