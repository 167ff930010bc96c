"""Features: what a predictor reads of an architecture, vectorised over populations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from predictors.base import FloatArray
from search_spaces.space import Population, SearchSpace


@dataclass(frozen=True)
class Block:
    """Features that belong together: a matrix of (n, d) and a name for each of its d columns."""

    name: str
    columns: tuple[str, ...]
    matrix: Callable[[Population], FloatArray]


def one_hot(space: SearchSpace) -> Block:
    """Returns one column per gene and choice: 1 where the gene is active and holds the choice, else 0.

    Aliases count as what they stand for; genes with a single choice that are always active carry nothing and have
    no column.
    """
    wanted: list[tuple[int, int]] = []
    for position, gene in enumerate(space.genes):
        distinct = gene.representatives()
        if len(distinct) > 1 or gene.active_when:
            wanted += [(position, choice) for choice in distinct]
    genes = np.array([g for g, _ in wanted], dtype=np.intp)
    choices = np.array([c for _, c in wanted], dtype=np.uint8)
    names = tuple(f"{space.genes[g].name}={space.genes[g].choices[c]}" for g, c in wanted)

    def matrix(population: Population) -> FloatArray:
        rows = space.canonical(population)
        hit = rows[:, genes] == choices
        return np.asarray(hit & space.active(rows)[:, genes], dtype=np.float64)

    return Block("one_hot", names, matrix)


def ordinal(space: SearchSpace) -> Block:
    """Returns one column per gene: its value scaled to [0, 1] over the choices; of other genes than numbers, its place.

    Inactive genes are 0, and genes that can be inactive have a second column that says whether they are active.
    """
    tables: list[FloatArray] = []
    names = [gene.name for gene in space.genes]
    for gene in space.genes:
        numeric = not isinstance(gene.choices[0], str | bool)
        values = np.array(gene.choices if numeric else range(len(gene.choices)), dtype=np.float64)
        span = float(np.ptp(values))
        tables.append((values - values.min()) / span if span > 0 else np.ones(len(values)))
    hidden = np.array([i for i, gene in enumerate(space.genes) if gene.active_when], dtype=np.intp)
    names += [f"{space.genes[i].name} active" for i in hidden]

    def matrix(population: Population) -> FloatArray:
        rows = space.canonical(population)
        active = space.active(rows)
        out = np.empty((len(rows), len(names)))
        for i, table in enumerate(tables):
            out[:, i] = table[rows[:, i]]
        out[:, : space.n_genes] *= active
        out[:, space.n_genes :] = active[:, hidden]
        return out

    return Block("ordinal", tuple(names), matrix)


BLOCKS: dict[str, Callable[[SearchSpace], Block]] = {"one_hot": one_hot, "ordinal": ordinal}


class Features:
    """The features of a space's populations: the columns of some blocks, side by side.

    Args:
        space: of the populations.
        blocks: names out of `BLOCKS`, in order.
    """

    def __init__(self, space: SearchSpace, blocks: Sequence[str] = ("one_hot",)) -> None:
        unknown = [b for b in blocks if b not in BLOCKS]
        if unknown or not blocks:
            raise ValueError(f"feature blocks must be out of {sorted(BLOCKS)}, but got {list(blocks)}.")
        self.space = space
        self.names = tuple(blocks)
        self.blocks = tuple(BLOCKS[b](space) for b in blocks)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the d columns."""
        return tuple(column for block in self.blocks for column in block.columns)

    def matrix(self, population: Population) -> FloatArray:
        """Returns the features (n, d) of a population (n, g)."""
        return np.concatenate([block.matrix(population) for block in self.blocks], axis=1)
