"""Sparsity patterns: which weights of a layer are zero, how many, and how many bytes the rest takes."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

FP32_BYTES = 4


class Pattern(ABC):
    """A rule that says which weights stay. Pure: the same weights give the same mask.

    Shapes are given as (outputs, inputs per group, kernel side), each an int or an array (n,); a weight
    tensor has shape (outputs, inputs) or (outputs, inputs, kernel, kernel).
    """

    name: str

    @abstractmethod
    def fits(self, outputs: Any, inputs: Any, kernel: Any) -> Any:
        """Returns whether the pattern can be applied; where it does not fit, the layer stays dense."""

    @abstractmethod
    def _nonzeros(self, outputs: Any, inputs: Any, kernel: Any) -> Any:
        """Returns the number of weights kept where the pattern fits."""

    @abstractmethod
    def _stored_bytes(self, outputs: Any, inputs: Any, kernel: Any) -> Any:
        """Returns the bytes of the pattern's own encoding where it fits."""

    @abstractmethod
    def _mask(self, scores: Tensor) -> Tensor:
        """Returns the mask of a weight that fits, from non-negative scores of the same shape."""

    def nonzeros(self, outputs: Any, inputs: Any, kernel: Any) -> Any:
        """Returns the exact number of weights kept."""
        fits = self.fits(outputs, inputs, kernel)
        return np.where(fits, self._nonzeros(outputs, inputs, kernel), outputs * inputs * kernel * kernel)

    def stored_bytes(self, outputs: Any, inputs: Any, kernel: Any) -> Any:
        """Returns the bytes of the weight (fp32 values) in its smallest encoding."""
        dense = FP32_BYTES * outputs * inputs * kernel * kernel
        own = np.where(self.fits(outputs, inputs, kernel), self._stored_bytes(outputs, inputs, kernel), dense)
        return np.minimum(dense, own)

    def mask(self, weight: Tensor, scores: Tensor | None = None) -> Tensor | None:
        """Returns a boolean mask of the weight's shape (True = kept), or None where the layer stays dense.

        Args:
            weight: the sliced weight; gradients are not followed.
            scores: importance of each weight, same shape; magnitude by default. Of equal scores the one
                with the lower flat index is kept.
        """
        kernel = weight.shape[2] if weight.dim() > 2 else 1
        if not bool(self.fits(weight.shape[0], weight.shape[1], kernel)):
            return None
        scores = weight.detach().abs() if scores is None else scores.detach()
        return self._mask(scores)


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
        weights = np.asarray(outputs * inputs * kernel * kernel)
        zeros = np.floor(weights * self.sparsity + 0.5).astype(np.int64)
        return np.maximum(weights - zeros, 1)

    def _stored_bytes(self, outputs: Any, inputs: Any, kernel: Any) -> Any:
        weights = outputs * inputs * kernel * kernel
        return FP32_BYTES * self._nonzeros(outputs, inputs, kernel) + (weights + 7) // 8

    def _mask(self, scores: Tensor) -> Tensor:
        kernel = scores.shape[2] if scores.dim() > 2 else 1
        keep = int(self._nonzeros(scores.shape[0], scores.shape[1], kernel))
        flat = scores.reshape(-1)
        threshold = flat.kthvalue(flat.numel() - keep + 1).values
        mask = flat > threshold
        ties = (flat == threshold).nonzero().squeeze(1)
        mask[ties[: keep - int(mask.sum())]] = True
        return mask.view(scores.shape)


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
        order = blocks.argsort(dim=1, descending=True, stable=True)[:, : self.n]
        mask = torch.zeros_like(blocks, dtype=torch.bool).scatter_(1, order, True)
        return mask.view(rows.shape).movedim(-1, 1)


DENSE = Dense()


def parse_pattern(text: str) -> Pattern:
    """Returns the pattern called `dense`, `unstructured-P` (0 < P < 1) or `n:m` (1 <= n < m).

    Raises:
        ValueError: another name, or numbers outside these bounds.
    """
    if text == "dense":
        return DENSE
    if match := re.fullmatch(r"unstructured-(\d*\.?\d+)", text):
        return Unstructured(float(match[1]))
    if match := re.fullmatch(r"(\d+):(\d+)", text):
        return NOfM(int(match[1]), int(match[2]))
    raise ValueError(f"a sparsity pattern must be 'dense', 'unstructured-P' or 'n:m', but got {text!r}.")
