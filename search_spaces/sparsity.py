"""Sparsity patterns: which weights of a layer are zero, how many, and how many bytes the rest takes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from search_spaces.block_sparsity import Block
from search_spaces.kernel_groups import KernelGroups
from search_spaces.pattern import FP32_BYTES as FP32_BYTES
from search_spaces.pattern import Pattern as Pattern
from search_spaces.pattern import best_of_rows, kept, top_mask


@dataclass(frozen=True)
class Dense(Pattern):
    """Every weight stays."""

    name: str = "dense"

    def fits(self, outputs: Any, inputs: Any, kernel: Any) -> Any:
        """Returns False: there is nothing to apply."""
        return np.zeros(np.shape(outputs + inputs + kernel), dtype=bool)

    def _nonzeros(self, outputs: Any, inputs: Any, kernel: Any) -> Any:
        return outputs * inputs * kernel * kernel

    def _stored_bytes(self, outputs: Any, inputs: Any, kernel: Any) -> Any:
        return FP32_BYTES * outputs * inputs * kernel * kernel

    def _mask(self, scores: Tensor) -> Tensor:
        return torch.ones_like(scores, dtype=torch.bool)


@dataclass(frozen=True)
class Unstructured(Pattern):
    """The smallest `sparsity` share of a layer's weights is zero (Han et al. 2015, magnitude pruning per layer).

    Encoding: one bit per weight and the kept values.
    """

    sparsity: float

    def __post_init__(self) -> None:
        if not 0.0 < self.sparsity < 1.0:
            raise ValueError(f"unstructured sparsity must be between 0 and 1, but got {self.sparsity}.")

    @property
    def name(self) -> str:  # type: ignore[override]
        """The name that `parse_pattern` reads."""
        return f"unstructured-{self.sparsity:g}"

    def fits(self, outputs: Any, inputs: Any, kernel: Any) -> Any:
        """Returns whether there are at least two weights."""
        return outputs * inputs * kernel * kernel >= 2

    def _nonzeros(self, outputs: Any, inputs: Any, kernel: Any) -> Any:
        return kept(outputs * inputs * kernel * kernel, self.sparsity)

    def _stored_bytes(self, outputs: Any, inputs: Any, kernel: Any) -> Any:
        weights = outputs * inputs * kernel * kernel
        return FP32_BYTES * self._nonzeros(outputs, inputs, kernel) + (weights + 7) // 8

    def _mask(self, scores: Tensor) -> Tensor:
        kernel = scores.shape[2] if scores.dim() > 2 else 1
        return top_mask(scores, int(self._nonzeros(scores.shape[0], scores.shape[1], kernel)))


@dataclass(frozen=True)
class NOfM(Pattern):
    """`n` of every `m` consecutive inputs stay, per output and kernel position (2:4: NVIDIA Ampere's layout).

    Encoding: the kept values and, for each, its place among the m in ceil(log2 m) bits.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 1 <= self.n < self.m:
            raise ValueError(f"n:m sparsity must have 1 <= n < m, but got {self.n}:{self.m}.")

    @property
    def name(self) -> str:  # type: ignore[override]
        """The name that `parse_pattern` reads."""
        return f"{self.n}:{self.m}"

    def fits(self, outputs: Any, inputs: Any, kernel: Any) -> Any:
        """Returns whether the inputs are a multiple of m."""
        return inputs % self.m == 0

    def _nonzeros(self, outputs: Any, inputs: Any, kernel: Any) -> Any:
        return outputs * (inputs // self.m * self.n) * kernel * kernel

    def _stored_bytes(self, outputs: Any, inputs: Any, kernel: Any) -> Any:
        kept = self._nonzeros(outputs, inputs, kernel)
        return FP32_BYTES * kept + (kept * (self.m - 1).bit_length() + 7) // 8

    def _mask(self, scores: Tensor) -> Tensor:
        rows = scores.movedim(1, -1)  # (outputs, *kernel, inputs)
        blocks = rows.reshape(-1, self.m)
        mask = _best_by_pairs(blocks, self.n) if self.m <= PAIRWISE_UP_TO else best_of_rows(blocks, self.n)
        return mask.reshape(rows.shape).movedim(-1, 1)


PAIRWISE_UP_TO = 4
"""Largest m for which comparing all pairs is faster than partitioning every block."""


def _best_by_pairs(blocks: Tensor, n: int) -> Tensor:
    """Returns which `n` of each row are largest, (rows, m): those that fewer than n others beat; of ties the first."""
    columns = blocks.t().contiguous()  # (m, rows)
    beaten = torch.zeros(columns.shape, dtype=torch.uint8, device=blocks.device)
    for i in range(len(columns)):
        for j in range(i + 1, len(columns)):
            wins = columns[i] >= columns[j]
            beaten[j] += wins
            beaten[i] += ~wins
    return (beaten < n).t()


DENSE = Dense()


def parse_pattern(text: str) -> Pattern:
    """Returns the pattern of a name, with 0 < P < 1.

    | name | pattern |
    |---|---|
    | `dense` | every weight stays |
    | `unstructured-P` | the smallest share P of a layer's weights is zero |
    | `n:m` | n of every m consecutive inputs stay, 1 <= n < m |
    | `block-RxC-P` | tiles of R outputs x C inputs, the weakest share P of them is zero |
    | `groups-G-P` | outputs in G equal groups, in each the same share P of the inputs is zero |

    Raises:
        ValueError: another name, or numbers outside these bounds.
    """
    number = r"(\d*\.?\d+)"
    if text == "dense":
        return DENSE
    if match := re.fullmatch(rf"unstructured-{number}", text):
        return Unstructured(float(match[1]))
    if match := re.fullmatch(r"(\d+):(\d+)", text):
        return NOfM(int(match[1]), int(match[2]))
    if match := re.fullmatch(rf"block-(\d+)x(\d+)-{number}", text):
        return Block(int(match[1]), int(match[2]), float(match[3]))
    if match := re.fullmatch(rf"groups-(\d+)-{number}", text):
        return KernelGroups(int(match[1]), float(match[2]))
    raise ValueError(
        f"a sparsity pattern must be 'dense', 'unstructured-P', 'n:m', 'block-RxC-P' or 'groups-G-P', but got {text!r}."
    )
