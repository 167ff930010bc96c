"""Block: feature columns that belong together, and Reading: a population read once for all blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from predictors.amounts import Amounts, amounts
from predictors.base import FloatArray, LayerFunction
from search_spaces.layers import LayerSpec
from search_spaces.space import Population, SearchSpace

NO_CHOICE = 255
"""Larger than any choice index."""


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
        coded = np.where(self.active, self.rows, np.uint8(NO_CHOICE))
        by_gene = np.ascontiguousarray(coded.T)  # compared 32 at a time, gene by gene
        hit: NDArray[np.bool_] = by_gene[genes] == choices[:, None]
        return hit.astype(np.float64).T

    @cached_property
    def layers(self) -> list[LayerSpec]:
        """Layers with sizes (n,)."""
        if self._layers is None:
            raise ValueError("layer costs must be given the layers of the space's networks, but got none.")
        return self._layers(self.rows)

    @cached_property
    def amounts(self) -> list[Amounts]:
        """What each of the layers asks for, per operator kind."""
        return list(amounts(self.layers, len(self)))


@dataclass(frozen=True)
class Block:
    """Features that belong together.

    Args:
        name: of the block.
        columns: names of its d columns.
        matrix: reading of n architectures -> (n, d), non-negative.
        per_column: whether columns are brought to one spread each (costs) or all by one factor (indicators, whose
            rare choices should stay small).
        on_hot: (h, d), if the features are `Reading.hot` times it; None otherwise.
    """

    name: str
    columns: tuple[str, ...]
    matrix: Callable[[Reading], FloatArray]
    per_column: bool = False
    on_hot: FloatArray | None = None

    @classmethod
    def of_hot(cls, name: str, columns: Sequence[str], on_hot: FloatArray, *, per_column: bool = False) -> Block:
        """Returns the block of weighted sums of one-hot columns; on_hot: (h, d)."""
        return cls(name, tuple(columns), lambda reading: reading.hot @ on_hot, per_column, on_hot)

    def only(self, kept: NDArray[np.bool_]) -> Block:
        """Returns the block of some columns."""
        if kept.all():
            return self
        whole = self.matrix
        names = tuple(c for c, keep in zip(self.columns, kept, strict=True) if keep)
        if self.on_hot is not None:
            return Block.of_hot(self.name, names, self.on_hot[:, kept], per_column=self.per_column)
        return Block(self.name, names, lambda reading: whole(reading).T[kept].T, self.per_column)


@lru_cache(maxsize=32)
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
