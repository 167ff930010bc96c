"""Nodes and references: what a network is made of between the trace and the C source."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

ACTIVATIONS = (
    *("none", "relu", "relu6", "hardswish", "hardsigmoid"),
    *("sigmoid", "tanh", "silu", "gelu", "gelu_tanh"),
)
"""In the order of the numbers in runtime/hw_simd.h."""


@dataclass(frozen=True)
class Ref:
    """A tensor of one example as it lies in a buffer: rows x positions, position fastest, rows padded to vectors.

    Args:
        buffer: its number.
        shape: logical, without batch.
        order: logical axes from the slowest in memory to the fastest.
        split: how many of them, from the slowest on, make up the rows; the others are positions.
    """

    buffer: int
    shape: tuple[int, ...]
    order: tuple[int, ...]
    split: int

    @classmethod
    def contiguous(cls, buffer: int, shape: tuple[int, ...]) -> Ref:
        """Returns a tensor that lies as torch has it, without padding: one position."""
        return cls(buffer, shape, tuple(range(len(shape))), len(shape))

    @property
    def rows(self) -> int:
        """Rows of the matrix: channels of an image, features of tokens."""
        return prod(self.shape[axis] for axis in self.order[: self.split])

    @property
    def n(self) -> int:
        """Positions: pixels, tokens."""
        return prod(self.shape[axis] for axis in self.order[self.split :])

    @property
    def is_contiguous(self) -> bool:
        """Whether it lies as torch has it, without padding."""
        moved = [axis for axis in self.order if self.shape[axis] > 1]
        return self.n == 1 and moved == sorted(moved)

    def permuted(self, axes: tuple[int, ...]) -> Ref:
        """Returns the tensor with its axes in another order; nothing moves in memory."""
        shape = tuple(self.shape[axis] for axis in axes)
        return replace(self, shape=shape, order=tuple(axes.index(axis) for axis in self.order))

    def reshaped(self, shape: tuple[int, ...]) -> Ref | None:
        """Returns the tensor in another shape if nothing has to move in memory, else None."""
        if self.is_contiguous:
            return Ref.contiguous(self.buffer, shape)
        # Cut both shapes into their common factors; a new axis may join factors that lie one behind the other.
        factors, olds, news = _factors(self.shape, shape)
        place = {axis: i for i, axis in enumerate(self.order)}
        keys = [(place[old], i) for i, old in enumerate(olds)]  # where each factor lies in memory
        ranks = {key: i for i, key in enumerate(sorted(keys))}
        in_rows = [place[old] < self.split for old in olds]
        starts: list[tuple[int, int, bool]] = []
        for axis in range(len(shape)):
            own = [i for i, new in enumerate(news) if new == axis and factors[i] > 1]
            own = own or [i for i, new in enumerate(news) if new == axis][:1]
            memory = [ranks[keys[i]] for i in own]
            if any(_between(ranks, keys, factors, a, b) for a, b in pairwise(memory)):
                return None
            if len({in_rows[i] for i in own}) > 1:
                return None
            starts.append((memory[0] if memory else -1, axis, in_rows[own[0]] if own else True))
        order = tuple(axis for _, axis, _ in sorted(starts))
        split = sum(rows for _, _, rows in starts)
        out = Ref(self.buffer, shape, order, split)
        return out if (out.rows, out.n) == (self.rows, self.n) else None


def _between(
    ranks: dict[tuple[int, int], int], keys: list[tuple[int, int]], factors: list[int], a: int, b: int
) -> bool:
    """Returns whether something other than ones lies between two places in memory, or b lies before a."""
    if b < a:
        return True
    return any(a < ranks[key] < b and factors[i] > 1 for i, key in enumerate(keys))


def _factors(old: tuple[int, ...], new: tuple[int, ...]) -> tuple[list[int], list[int], list[int]]:
    """Returns factors in logical order, and the axis of `old` and of `new` that each belongs to."""
    factors, olds, news = [], [], []
    left_old, left_new = list(old), list(new)
    i = j = 0
    while i < len(old) or j < len(new):
        a = left_old[i] if i < len(old) else 1
        b = left_new[j] if j < len(new) else 1
        common = min(a, b)
        factors.append(common)
        olds.append(min(i, len(old) - 1))
        news.append(min(j, len(new) - 1))
        if a % common or b % common:
            return [prod(old)], [0], [0]  # no common cut; the caller finds that rows do not fit
        if i < len(old):
            left_old[i] = a // common
        if j < len(new):
            left_new[j] = b // common
        moved = False
        if i < len(old) and left_old[i] == 1 and (common == a):
            i, moved = i + 1, True
        if j < len(new) and left_new[j] == 1 and (common == b):
            j, moved = j + 1, True
        if not moved:
            return [prod(old)], [0], [0]
    return factors, olds, news


@dataclass
class Node:
    """One call of a kernel.

    Args:
        kind: which.
        inputs: buffers that it reads; a number below 0 is the network's input -1 - number.
        output: buffer that it writes.
        weights: arrays that become constants of the library.
        numbers: sizes and options.
        act: activation at its end.
        residual: buffer that is added before the activation.
        means: buffer that receives the means of its rows.
        value: number of the traced value that it makes.
    """

    kind: str
    inputs: list[int]
    output: int
    weights: dict[str, FloatArray] = field(default_factory=dict)
    numbers: dict[str, Any] = field(default_factory=dict)
    act: int = 0
    residual: int | None = None
    means: int | None = None
    value: int = -1

    @property
    def reads(self) -> list[int]:
        """Buffers that must be there when it runs."""
        return [b for b in (*self.inputs, self.residual) if b is not None and b >= 0]

    @property
    def writes(self) -> list[int]:
        """Buffers that it fills."""
        return [self.output] if self.means is None else [self.output, self.means]


@dataclass(frozen=True)
class Network:
    """Nodes in order. `buffers`: rows and positions of each; `inputs`: shape and dtype (`float`, `int64_t`) of each."""

    nodes: tuple[Node, ...]
    buffers: tuple[tuple[int, int], ...]
    inputs: tuple[tuple[tuple[int, ...], str], ...]
    output: int
    output_shape: tuple[int, ...]
