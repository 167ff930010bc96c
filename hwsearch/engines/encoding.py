"""What surrogates see of an architecture: which choices, how many of each, and where in the network."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from search_spaces.space import Population, SearchSpace

FloatArray = NDArray[np.float64]

Columns = Callable[[Population], FloatArray]
"""Population (n, g) -> columns (n, k) from outside, such as exact costs."""

SMOOTHNESS = 0.2
"""Over which share of the network's depth a choice acts alike."""


class Encoding:
    """One-hot active genes, blocks of features that are linear in them, and blocks of columns from outside.

    Blocks, coarse to fine: how often each choice occurs among genes of one role (counts); the same by position,
    smoothed over neighbours (places); numeric choices as numbers (numbers); the genes themselves (genes). All of them
    are matrices applied to the one-hot columns, so that a kernel over any number of blocks costs as much as one over
    the one-hot columns (see `Posterior`); that is why this is not `predictors.features`.

    Every block is scaled so that two of the reference architectures have a squared distance of 1 on average.

    Args:
        space: of the populations.
        reference: (n, g) architectures that the scales are taken from.
        outside: one function per further block.
    """

    def __init__(self, space: SearchSpace, reference: Population, *, outside: Sequence[Columns] = ()) -> None:
        self.space = space
        self._outside = tuple(outside)
        self._starts = np.cumsum([0, *(len(gene.choices) for gene in space.genes)])
        self.n_one_hot = int(self._starts[-1])
        one_hot = self.one_hot(reference)
        columns = [block(reference) for block in self._outside]
        widths = [self.n_one_hot, *(c.shape[1] for c in columns)]
        self._edges = np.cumsum([0, *widths])
        self._center = np.concatenate([one_hot, *columns], axis=1).mean(axis=0)
        self.inside_maps: list[FloatArray] = []
        for block in (self._counts(), self._places(), self._numbers(), np.eye(self.n_one_hot)):
            spread = float(2 * (one_hot @ block).var(axis=0).sum())
            if spread > 1e-12:
                self.inside_maps.append(self._padded(block / np.sqrt(spread), 0))
        self.coarse_maps = self.inside_maps[:-1] or self.inside_maps
        self.outside_maps: list[FloatArray] = []
        for i, values in enumerate(columns):
            deviation = values.std(axis=0) * np.sqrt(2 * max(1, values.shape[1]))
            flat = deviation <= 1e-12 * np.maximum(1.0, np.abs(values).max(axis=0, initial=0.0))
            scale = np.where(flat, 0.0, 1.0 / np.where(flat, 1.0, deviation))
            self.outside_maps.append(self._padded(np.diag(scale), 1 + i))

    def _padded(self, block: FloatArray, part: int) -> FloatArray:
        whole = np.zeros((int(self._edges[-1]), block.shape[1]))
        whole[self._edges[part] : self._edges[part + 1]] = block
        return whole

    @property
    def n_features(self) -> int:
        """Width of `features`."""
        return int(self._edges[-1])

    def one_hot(self, population: Population) -> FloatArray:
        """Returns one column per gene and choice (n, d): 1 where the gene is active and holds the choice."""
        n = len(population)
        out = np.zeros((n, self.n_one_hot))
        out[np.arange(n)[:, None], self._starts[:-1] + population] = self.space.active(population)
        return out

    def features(self, population: Population) -> FloatArray:
        """Returns the centred one-hot and outside columns side by side (n, d); maps (d, k) make blocks of them."""
        columns = [self.one_hot(population), *(block(population) for block in self._outside)]
        out = np.concatenate(columns, axis=1) if len(columns) > 1 else columns[0]
        out -= self._center
        return np.asarray(out)

    def coarse(self, population: Population) -> FloatArray:
        """Returns the coarse blocks and the outside ones (n, k): what a design should spread over."""
        blocks = np.concatenate([*self.coarse_maps, *self.outside_maps], axis=1)
        return np.asarray(self.features(population) @ blocks)

    def outside(self, population: Population) -> FloatArray:
        """Returns the outside blocks (n, k)."""
        return np.asarray(self.features(population) @ np.concatenate(self.outside_maps, axis=1))

    def _counts(self) -> FloatArray:
        blocks = [np.zeros((self.n_one_hot, 0))]
        for positions in roles(self.space):
            if len(positions) > 1:
                block = np.zeros((self.n_one_hot, len(self.space.genes[positions[0]].choices)))
                for position in positions:
                    block[self._starts[position] : self._starts[position + 1]] += np.eye(block.shape[1])
                blocks.append(block / np.sqrt(len(positions)))
        return np.concatenate(blocks, axis=1)

    def _places(self) -> FloatArray:
        blocks = [np.zeros((self.n_one_hot, 0))]
        for positions in roles(self.space):
            n = len(positions)
            if n < 3:
                continue
            # A priori the weight of a choice is a smooth function of depth: the map is the root of its covariance.
            at = np.arange(n) / (n - 1)
            root = np.linalg.cholesky(np.exp(-0.5 * ((at[:, None] - at) / SMOOTHNESS) ** 2) + 1e-6 * np.eye(n))
            k = len(self.space.genes[positions[0]].choices)
            block = np.zeros((self.n_one_hot, n * k))
            for i, position in enumerate(positions):
                for choice in range(k):
                    block[self._starts[position] + choice, choice::k] = root[i]
            blocks.append(block)
        return np.concatenate(blocks, axis=1)

    def _numbers(self) -> FloatArray:
        columns: list[FloatArray] = []
        for positions in roles(self.space):
            choices = self.space.genes[positions[0]].choices
            if isinstance(choices[0], str | bool) or len(choices) < 3:
                continue
            values = np.array(choices, dtype=np.float64)
            values = (values - values.mean()) / values.std()
            total = np.zeros(self.n_one_hot)
            for position in positions:
                column = np.zeros(self.n_one_hot)
                column[self._starts[position] : self._starts[position + 1]] = values
                columns.append(column)
                total += column
            if len(positions) > 1:
                columns.append(total / np.sqrt(len(positions)))
        return np.stack(columns, axis=1) if columns else np.zeros((self.n_one_hot, 0))


def roles(space: SearchSpace) -> list[list[int]]:
    """Returns the positions of the genes of each role, in order; genes with a single choice have no role.

    Genes have one role when their names differ only in digits and their choices are the same.
    """
    found: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for position, gene in enumerate(space.genes):
        if len(gene.choices) > 1:
            found[re.sub(r"\d+", "", gene.name), gene.choices].append(position)
    return list(found.values())
