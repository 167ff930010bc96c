"""Features: what a predictor reads of an architecture, as blocks of columns, vectorised over populations."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from predictors.base import FloatArray, LayerFunction, ScoreFunction, Sources
from predictors.cost_features import cost_blocks
from predictors.feature_blocks import Block, Reading
from predictors.gene_features import count_blocks, gene_blocks, one_hot_blocks, ordinal_blocks, product_blocks
from predictors.score_features import ScoreColumns, required
from search_spaces.space import Population, SearchSpace

REFERENCE_ROWS = 512
"""Architectures that tell how far each block spreads; no labels are needed for that."""

GENE_SETS: Mapping[str, Callable[[SearchSpace], list[Block]]] = {
    "one_hot": one_hot_blocks,
    "ordinal": ordinal_blocks,
    "genes": gene_blocks,
    "counts": count_blocks,
    "products": product_blocks,
}
COST_SETS = ("costs", "roofline")
SCORES = "scores"


class Features:
    """The features of a space's populations: blocks of columns side by side, each spreading by about 1.

    | set | blocks |
    |---|---|
    | one_hot | active genes, one column per choice |
    | ordinal | one column per gene: its value in [0, 1], and whether it is active |
    | genes | the same, but every gene is a block of its own |
    | counts | coarse to fine: how often each choice of a kind of gene occurs in net, window, stage; one_hot |
    | products | of every two ordinal columns |
    | costs | MACs, values moved, weights, launches, non-zeros by operator kind and kernel: of the net, per stage |
    | roofline | per operator kind, time bound by arithmetic or by memory at several balances of the two |
    | scores | what `scores` says of each network |

    Every block is divided by the root of its summed column variances over `reference_rows`, so that a prior over a
    block's weights means the same whatever its width; columns of costs are brought to one variance first. Columns
    stay non-negative, those of scores excepted.

    Args:
        space: of the populations.
        sets: names out of the table, in order.
        layers: population -> layers; needed by costs and roofline.
        batch: examples per call, for roofline.
        scores: population -> scores; needed by scores.
    """

    def __init__(
        self,
        space: SearchSpace,
        sets: Sequence[str] = ("one_hot",),
        *,
        layers: LayerFunction | None = None,
        batch: int = 1,
        scores: ScoreFunction | ScoreColumns | None = None,
    ) -> None:
        known = (*GENE_SETS, *COST_SETS, SCORES)
        unknown = [name for name in sets if name not in known]
        if unknown or not sets or len(set(sets)) < len(sets):
            raise ValueError(f"feature sets must be distinct and out of {list(known)}, but got {list(sets)}.")
        if batch < 1:
            raise ValueError(f"batch must be at least 1, but got {batch}.")
        needing = [name for name in sets if name in COST_SETS]
        if needing and layers is None:
            raise ValueError(f"features {needing[0]!r} must be given the layers of the space's networks, but got none.")
        self.space, self.sets, self.layers, self.batch = space, tuple(sets), layers, batch
        reference = Reading(space, reference_rows(space), layers)
        self.score_columns: ScoreColumns | None = None
        if SCORES in sets:
            if isinstance(scores, ScoreColumns):  # of a file: nothing has to be scored to know their spread
                self.score_columns = scores
            else:
                self.score_columns = ScoreColumns.of(required(scores), reference.rows)
        blocks: list[Block] = []
        for name in sets:
            if name == SCORES:
                continue
            blocks += GENE_SETS[name](space) if name in GENE_SETS else cost_blocks(name, reference, batch=batch)
        self.blocks: tuple[Block, ...] = ()
        self.scales: tuple[FloatArray, ...] = ()  # per block, (columns,)
        sums = []
        for block in blocks:
            x = block.matrix(reference)
            spread = x.std(axis=0)
            if block.per_column:
                kept = spread > 1e-9 * np.maximum(np.abs(x).max(axis=0), 1e-300)
                block, x, spread = block.only(kept), x[:, kept], spread[kept]
                scale = spread * np.sqrt(len(spread))
            else:
                scale = np.full(len(spread), max(float(np.sqrt((spread**2).sum())), 1e-12))
            if len(scale):
                self.blocks += (block,)
                self.scales += (scale,)
                sums.append((x / scale).mean(axis=0))
        if self.score_columns is not None:
            self.blocks += (self.score_columns.block(),)
            self.scales += (np.ones(len(self.score_columns.spread)),)
        if not self.blocks:
            raise ValueError(f"features {list(sets)} must differ between architectures, but all columns are constant.")
        # (h, d): features of genes alone are the one-hot columns times this; None with costs or products among them.
        self.on_hot: FloatArray | None = None
        maps = [
            block.on_hot / scale
            for block, scale in zip(self.blocks, self.scales, strict=True)
            if block.on_hot is not None
        ]
        if len(maps) == len(self.blocks):
            self.on_hot = np.concatenate(maps, axis=1)
        sums = sums or [np.zeros(0)]
        self.digest = _digest([c for b in self.blocks for c in b.columns], np.concatenate([*self.scales, *sums]))

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the d columns."""
        return tuple(column for block in self.blocks for column in block.columns)

    @property
    def widths(self) -> tuple[int, ...]:
        """Number of columns of each block."""
        return tuple(len(block.columns) for block in self.blocks)

    def matrix(self, population: Population) -> FloatArray:
        """Returns the features (n, d) of a population (n, g)."""
        reading = Reading(self.space, population, self.layers)
        if self.on_hot is not None:
            return np.asarray(reading.hot @ self.on_hot, dtype=np.float64)
        out = np.empty((sum(self.widths), len(population))).T  # columns are made one by one
        start = 0
        for block, scale in zip(self.blocks, self.scales, strict=True):
            stop = start + len(scale)
            np.divide(block.matrix(reading), scale, out=out[:, start:stop])
            start = stop
        return out

    def hot(self, population: Population) -> FloatArray:
        """Returns the one-hot columns (n, h) of a population (n, g)."""
        return Reading(self.space, population, self.layers).hot

    def settings(self) -> dict[str, Any]:
        """Returns what `restore` needs, JSON-able."""
        settings = {"sets": list(self.sets), "batch": self.batch, "digest": self.digest}
        return settings if self.score_columns is None else {**settings, SCORES: self.score_columns.settings()}

    @classmethod
    def restore(cls, space: SearchSpace, settings: Mapping[str, Any], *, sources: Sources) -> Features:
        """Returns the features of `settings()`.

        Raises:
            ValueError: layers or scores are needed and missing, or others than those it was made with.
        """
        columns = ScoreColumns.restore(sources.scores, settings[SCORES]) if SCORES in settings["sets"] else None
        features = cls(space, settings["sets"], layers=sources.layers, batch=int(settings["batch"]), scores=columns)
        if features.digest != settings["digest"]:
            raise ValueError("the layer costs must be those that the predictor was fitted with, but they differ.")
        return features


def reference_rows(space: SearchSpace) -> Population:
    """Returns `REFERENCE_ROWS` architectures in which every gene's choices are equally likely, (n, g); always the same.

    Not uniform over architectures: there the deepest nets are nearly all, and what sets others apart has no spread.
    """
    draws = np.random.default_rng(0).random((REFERENCE_ROWS, space.n_genes))
    return space.canonical((draws * space.n_choices).astype(np.uint8))


def _digest(columns: Sequence[str], numbers: FloatArray) -> str:
    """Returns a digest of column names and of numbers to six digits, which survive another CPU's rounding."""
    text = "\n".join([*columns, *(f"{v:.6g}" for v in numbers)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
