"""What surrogates see of an architecture: which choices, how many of each, and where in the network."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from search_spaces.space import Population, SearchSpace

FloatArray = NDArray[np.float64]

SMOOTHNESS = 0.2
"""Over which share of the network's depth a choice acts alike."""


def roles(space: SearchSpace) -> list[list[int]]:
    """Returns the positions of the genes of each role, in order; genes with a single choice have no role.

    Genes have one role when their names differ only in digits and their choices are the same.
    """
    found: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for position, gene in enumerate(space.genes):
        if len(gene.choices) > 1:
            found[re.sub(r"\d+", "", gene.name), gene.choices].append(position)
    return list(found.values())


class Encoding:
    """One-hot active genes, and blocks of features that are linear in them; then columns from outside.

    Blocks, coarse to fine: how often each choice occurs among genes of one role (*counts*); the same by position,
    smoothed over neighbours (*places*); numeric choices as numbers (*numbers*); the genes themselves (*genes*).
    Every block is scaled so that two random architectures have a squared distance of 1 on average.

    Args:
        space: of the populations.
        reference: (n, g) architectures that the scales are taken from.
        extra: population (n, g) -> further columns (n, e), such as exact costs; None for none.
    """

    def __init__(
        self, space: SearchSpace, reference: Population, *, extra: Callable[[Population], FloatArray] | None = None
    ) -> None:
        self.space = space
        self.extra = extra
        self._columns = np.cumsum([0, *(len(gene.choices) for gene in space.genes)])
        self.n_one_hot = int(self._columns[-1])
        one_hot = self.one_hot(reference)
        maps = [self._counts(), self._places(), self._numbers(), np.eye(self.n_one_hot)]
        self.maps: list[FloatArray] = []
        for block in maps:
            spread = 2 * (one_hot @ block).var(axis=0).sum() if block.shape[1] else 0.0
            if spread > 1e-12:
                self.maps.append(block / np.sqrt(spread))
        self._center = one_hot.mean(axis=0)
        self._extra_center = np.zeros(0)
        self._extra_scale = np.zeros(0)
        if extra is not None:
            columns = extra(reference)
            self._extra_center = columns.mean(axis=0)
            scale = np.sqrt(2 * columns.shape[1]) * columns.std(axis=0)
            self._extra_scale = np.where(scale > 1e-12, scale, 1.0)

    @property
    def n_blocks(self) -> int:
        """Number of feature blocks, the outside columns counted as one."""
        return len(self.maps) + (len(self._extra_center) > 0)

    @property
    def n_extra(self) -> int:
        """Number of outside columns."""
        return len(self._extra_center)

    def one_hot(self, population: Population) -> FloatArray:
        """Returns one column per gene and choice (n, d): 1 where the gene is active and holds the choice."""
        n = len(population)
        out = np.zeros((n, self.n_one_hot))
        out[np.arange(n)[:, None], self._columns[:-1] + population] = self.space.active(population)
        return out

    def features(self, population: Population) -> FloatArray:
        """Returns centred one-hot columns and centred, scaled outside columns side by side (n, d + e)."""
        out = self.one_hot(population) - self._center
        if self.extra is None:
            return out
        return np.concatenate([out, (self.extra(population) - self._extra_center) / self._extra_scale], axis=1)

    def coarse(self, population: Population) -> FloatArray:
        """Returns the coarse columns (n, k): counts, places and numbers, and the outside ones."""
        features = self.features(population)
        blocks = self.block_maps[:-2] + self.block_maps[-1:] if self.n_extra else self.block_maps[:-1]
        return features @ np.concatenate(blocks or self.block_maps, axis=1)

    @cached_property
    def block_maps(self) -> list[FloatArray]:
        """One matrix per block: features (n, d + e) @ map (d + e, k) are the block's columns (n, k)."""
        rows = self.n_one_hot + self.n_extra
        padded = []
        for block in self.maps:
            whole = np.zeros((rows, block.shape[1]))
            whole[: self.n_one_hot] = block
            padded.append(whole)
        if self.n_extra:
            whole = np.zeros((rows, self.n_extra))
            whole[self.n_one_hot :] = np.eye(self.n_extra)
            padded.append(whole)
        return padded

    def _counts(self) -> FloatArray:
        blocks = []
        for positions in roles(self.space):
            if len(positions) > 1:
                block = np.zeros((self.n_one_hot, len(self.space.genes[positions[0]].choices)))
                for position in positions:
                    block[self._columns[position] : self._columns[position + 1]] += np.eye(block.shape[1])
                blocks.append(block / np.sqrt(len(positions)))
        return np.concatenate([np.zeros((self.n_one_hot, 0)), *blocks], axis=1)

    def _places(self) -> FloatArray:
        blocks = []
        for positions in roles(self.space):
            n = len(positions)
            if n < 3:
                continue
            # Weights of one choice along the depth are a priori a smooth function: their covariance's root is the map.
            at = np.arange(n) / (n - 1)
            root = np.linalg.cholesky(np.exp(-0.5 * ((at[:, None] - at) / SMOOTHNESS) ** 2) + 1e-6 * np.eye(n))
            k = len(self.space.genes[positions[0]].choices)
            block = np.zeros((self.n_one_hot, n * k))
            for i, position in enumerate(positions):
                for choice in range(k):
                    block[self._columns[position] + choice, choice::k] = root[i]
            blocks.append(block)
        return np.concatenate([np.zeros((self.n_one_hot, 0)), *blocks], axis=1)

    def _numbers(self) -> FloatArray:
        columns = []
        for positions in roles(self.space):
            choices = self.space.genes[positions[0]].choices
            if isinstance(choices[0], str | bool) or len(choices) < 3:
                continue
            values = np.array(choices, dtype=np.float64)
            values = (values - values.mean()) / values.std()
            total = np.zeros(self.n_one_hot)
            for position in positions:
                column = np.zeros(self.n_one_hot)
                column[self._columns[position] : self._columns[position + 1]] = values
                columns.append(column)
                total += column
            if len(positions) > 1:
                columns.append(total / np.sqrt(len(positions)))
        return np.stack(columns, axis=1) if columns else np.zeros((self.n_one_hot, 0))
