"""Features made from genes alone: one-hot, ordinal, products and coarse-to-fine counts. For every search space."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from predictors.base import FloatArray
from predictors.feature_blocks import Block, Reading, hot_choices
from search_spaces.genes import Gene
from search_spaces.space import SearchSpace

MAX_PRODUCT_GENES = 24
WINDOWS = (4.0, 10.0)
"""Deviations of the two Gaussian windows, as the divisor of the number of positions."""


def one_hot_blocks(space: SearchSpace) -> list[Block]:
    """Returns one block: a column per gene and distinct choice, 1 where the gene is active and holds it."""
    names = _hot_names(space)
    return [Block("one_hot", names, lambda reading: reading.hot, on_hot=np.eye(len(names)))] if names else []


def ordinal_blocks(space: SearchSpace) -> list[Block]:
    """Returns one block: per gene its value scaled to [0, 1] over the choices (of other genes than numbers, its place).

    Inactive genes are 0; genes that can be inactive have a second column that says whether they are active.
    """
    telling = _telling(space)
    return [_ordinal("ordinal", space, telling)] if telling else []


def gene_blocks(space: SearchSpace) -> list[Block]:
    """Returns the columns of `ordinal_blocks` as one block per gene, so that a model can find the few that matter."""
    return [_ordinal(f"gene {space.genes[i].name}", space, [i]) for i in _telling(space)]


def _telling(space: SearchSpace) -> list[int]:
    """Returns the genes that tell anything: one choice that is always active does not."""
    return sorted(set(hot_choices(space)[0].tolist()))


def _ordinal(name: str, space: SearchSpace, genes: Sequence[int]) -> Block:
    of_column, choices = hot_choices(space)
    columns = {}
    for i in genes:
        table, mine = _scaled_choices(space.genes[i]), of_column == i
        columns[space.genes[i].name] = np.where(mine, table[np.where(mine, choices, 0)], 0.0)
    columns |= {f"{space.genes[i].name} active": 1.0 * (of_column == i) for i in genes if space.genes[i].active_when}
    return Block.of_hot(name, tuple(columns), np.stack(list(columns.values()), axis=1), per_column=True)


def product_blocks(space: SearchSpace) -> list[Block]:
    """Returns one block: products of every two genes' ordinal values; for spaces of at most 24 genes, else none.

    A gene's value is taken in [0.5, 1.5] here, so that a product tells two small values from one.
    """
    genes = [i for i, gene in enumerate(space.genes) if len(gene.choices) > 1]
    if len(genes) > MAX_PRODUCT_GENES:
        return []
    pairs = [(a, b) for k, a in enumerate(genes) for b in genes[k:]]
    tables = {i: 0.5 + _scaled_choices(space.genes[i]) for i in genes}

    def matrix(reading: Reading) -> FloatArray:
        values = {i: tables[i][reading.rows[:, i]] * reading.active[:, i] for i in genes}
        return np.stack([values[a] * values[b] for a, b in pairs], axis=1)

    names = tuple(f"{space.genes[a].name}*{space.genes[b].name}" for a, b in pairs)
    return [Block("products", names, matrix, per_column=True)]


def count_blocks(space: SearchSpace) -> list[Block]:
    """Returns blocks from coarse to fine, all of them sums of one-hot columns.

    Genes of one kind (the last part of the name without its number, and the same number of choices) are laid out in
    the space's order. net: how often each choice occurs. wide, narrow: the same in Gaussian windows along that order,
    so that neighbours share what is learned of one another. stage: within each first part of the name. one_hot: each
    gene for itself. The blocks that a space does not have (one stage, few positions) are left out.
    """
    genes, _ = hot_choices(space)
    kinds = _kinds(space)
    levels: dict[str, list[tuple[str, FloatArray]]] = defaultdict(list)
    n_hot = len(genes)

    def add(level: str, kind: _Kind, name: str, weights: FloatArray) -> None:
        """Adds one column per choice: the weighted count over the kind's positions (positions,)."""
        for c, choice in enumerate(kind.choices):
            column = np.zeros(n_hot)
            for weight, hot in zip(weights, kind.hot, strict=True):
                if hot[c] >= 0:
                    column[hot[c]] = weight
            if column.any():
                levels[level].append((f"{kind.name}={choice} in {name}", column))

    for kind in kinds:
        length = len(kind.genes)
        place = np.arange(length)
        if length > 1:
            add("net", kind, "net", np.ones(length))
        for level, divisor in zip(("wide", "narrow"), WINDOWS, strict=True):
            deviation = length / divisor
            if deviation < 0.75 or length < 4:
                continue
            centres = np.arange(0, length - 1 + deviation, deviation)
            for centre in centres:
                window = np.exp(-0.5 * ((place - centre) / deviation) ** 2)
                add(level, kind, f"window {centre:.1f}+-{deviation:.1f}", np.where(window > 1e-3, window, 0.0))
        stages = [space.genes[g].name.split(".")[0] if "." in space.genes[g].name else "" for g in kind.genes]
        for stage in dict.fromkeys(stages):
            inside = np.array([s == stage for s in stages])
            if stage and 1 < inside.sum() < length:
                add("stage", kind, stage, inside.astype(float))
    blocks = []
    for level in ("net", "wide", "narrow", "stage"):
        if levels[level]:
            blocks.append(_summing(level, levels[level]))
    return [*blocks, *one_hot_blocks(space)]


def _summing(name: str, columns: Sequence[tuple[str, FloatArray]]) -> Block:
    """Returns a block whose columns are weighted sums of one-hot columns."""
    weights = np.stack([weights for _, weights in columns], axis=1)  # (h, d)
    return Block.of_hot(f"counts.{name}", [n for n, _ in columns], weights)


@dataclass(frozen=True)
class _Kind:
    """Genes that mean the same at several positions; hot[position][choice] = one-hot column or -1."""

    name: str
    genes: tuple[int, ...]
    choices: tuple[str, ...]
    hot: tuple[tuple[int, ...], ...]


def _kinds(space: SearchSpace) -> list[_Kind]:
    columns = {(int(g), int(c)): i for i, (g, c) in enumerate(zip(*hot_choices(space), strict=True))}
    members: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for position, gene in enumerate(space.genes):
        if any((position, c) in columns for c in range(len(gene.choices))):
            # Numbers of different genes correspond by rank (stage widths); words must be the same words.
            same: object = gene.choices if isinstance(gene.choices[0], str) else len(gene.choices)
            members[gene_kind(gene.name), same].append(position)
    kinds = []
    for (name, _), positions in members.items():
        first = space.genes[positions[0]]
        kinds.append(
            _Kind(
                str(name),
                tuple(positions),
                tuple(str(c) for c in first.choices),
                tuple(tuple(columns.get((p, c), -1) for c in range(len(first.choices))) for p in positions),
            )
        )
    return kinds


def gene_kind(name: str) -> str:
    """Returns what a gene decides, without where: `stage2.block3.kernel` -> `kernel`, `op17` -> `op`."""
    last = name.split(".")[-1]
    return last.rstrip("0123456789").rstrip("_") or last


def _scaled_choices(gene: Gene) -> FloatArray:
    """Returns each choice's value in [0, 1]: numbers by value, others by place; a single choice is 1."""
    numeric = not isinstance(gene.choices[0], str | bool)
    values = np.array(gene.choices if numeric else range(len(gene.choices)), dtype=np.float64)
    span = float(np.ptp(values))
    return (values - values.min()) / span if span > 0 else np.ones(len(values))


def _hot_names(space: SearchSpace) -> tuple[str, ...]:
    genes, choices = hot_choices(space)
    return tuple(f"{space.genes[g].name}={space.genes[g].choices[c]}" for g, c in zip(genes, choices, strict=True))
