"""Pattern: the contract of all sparsity patterns, and the two ways to take the best of some scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

FP32_BYTES = 4


def top_mask(scores: Tensor, keep: int) -> Tensor:
    """Returns a boolean mask of the shape of `scores` that keeps exactly `keep` largest; of ties the first ones.

    Args:
        scores: any shape, no NaN.
        keep: 0 to the number of scores.
    """
    flat = scores.reshape(-1)
    if keep <= 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    place = flat.numel() - keep
    if flat.device.type == "cpu" and flat.dtype in (torch.float32, torch.float64):
        threshold = float(np.partition(flat.detach().numpy(), place)[place])  # ten times faster than kthvalue
    else:
        threshold = float(flat.kthvalue(place + 1).values)
    mask = flat > threshold
    ties = (flat == threshold).nonzero().squeeze(1)
    mask[ties[: keep - int(mask.sum())]] = True
    return mask.view(scores.shape)


def masked(weight: Tensor, mask: Tensor) -> Tensor:
    """Returns the weight with +0 where the mask is False; gradients are zero there. Kept values are bit-equal.

    A product, since `torch.where` takes ten times as long on a CPU; adding 0 turns the product's -0 into +0.
    """
    return weight * mask.to(weight.dtype) + 0.0


def best_of_rows(rows: Tensor, keep: int) -> Tensor:
    """Returns which `keep` entries of each row are largest, (rows, entries); of ties the first.

    Args:
        rows: (rows, entries), no NaN.
        keep: 1 to the number of entries.
    """
    place = rows.shape[1] - keep
    if rows.device.type == "cpu" and rows.dtype in (torch.float32, torch.float64):
        # Five times faster than sorting every row.
        limit = torch.from_numpy(np.partition(rows.detach().numpy(), place, axis=1)[:, place : place + 1])
    else:
        limit = rows.topk(keep, dim=1, sorted=False).values.amin(1, keepdim=True)
    mask = rows >= limit
    if int(mask.sum()) > keep * len(rows):
        larger = rows > limit
        ties = mask & ~larger
        mask = larger | (ties & (ties.cumsum(1) <= keep - larger.sum(1, keepdim=True)))
    return mask


def row_mask(scores: Tensor, keep: int) -> Tensor:
    """Returns a boolean mask that keeps the `keep` largest scores of every output (dimension 0); of ties the first."""
    return best_of_rows(scores.reshape(len(scores), -1), keep).view(scores.shape)


def kept(count: Any, sparsity: float) -> Any:
    """Returns how many of `count` things stay: count - floor(count * sparsity + 1/2), at least 1."""
    count = np.asarray(count)
    return np.maximum(count - np.floor(count * sparsity + 0.5).astype(np.int64), 1)


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

    def own_bytes(self, outputs: Any, inputs: Any, kernel: Any) -> Any:
        """Returns the bytes of the pattern's own encoding, smaller than the dense one or not. It must fit."""
        return self._stored_bytes(outputs, inputs, kernel)

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
