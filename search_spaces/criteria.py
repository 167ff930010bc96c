"""Criteria: how important a weight or a group of weights is. Scores are non-negative; larger stays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def magnitude(weight: Tensor) -> Tensor:
    """Returns |w|. Source: Han et al. 2015."""
    return weight.detach().abs()


def random_scores(weight: Tensor, rng: np.random.Generator) -> Tensor:
    """Returns uniform random scores of the weight's shape: the control of every criterion."""
    return torch.from_numpy(rng.random(tuple(weight.shape))).to(weight.device)


def first_order(weight: Tensor, gradient: Tensor) -> Tensor:
    """Returns |w g|, the first-order change of the loss when the weight is removed. Source: Molchanov et al. 2017."""
    if weight.shape != gradient.shape:
        raise ValueError(f"the gradient must have shape {tuple(weight.shape)}, but got {tuple(gradient.shape)}.")
    return (weight.detach() * gradient.detach()).abs()


def wanda(weight: Tensor, input_norms: Tensor) -> Tensor:
    """Returns |w_ij| * ||x_j||_2, to be compared within an output row (`row_mask`). Source: Sun et al. 2023, eq. 1.

    Args:
        weight: (outputs, inputs) or (outputs, inputs, kernel, kernel).
        input_norms: (inputs,) L2 norm of every input over all examples and positions.
    """
    if input_norms.shape != weight.shape[1:2]:
        raise ValueError(
            f"input_norms must have one value per input ({weight.shape[1]}), but got {tuple(input_norms.shape)}."
        )
    return weight.detach().abs() * input_norms.view(1, -1, *[1] * (weight.dim() - 2))


def group_normalised(members: Sequence[tuple[Tensor, int]]) -> Tensor:
    """Returns the importance of every channel that several tensors share, (channels,).

    Each member gives its squared L2 norm per channel divided by its mean over the channels; the importance is the
    mean over the members, so that a large tensor does not outvote a small one and all channels have mean 1.
    Source: the group criteria of Structurally Prune Anything (sum over coupled channels, normalised by the mean).

    Args:
        members: (tensor, dimension that indexes the channels).
    """
    if not members:
        raise ValueError("a group must have at least one member, but got none.")
    total: Tensor | None = None
    for tensor, dim in members:
        rows = tensor.detach().movedim(dim, 0)
        energy = rows.reshape(len(rows), -1).square().sum(1)
        share = energy / energy.mean().clamp_min(torch.finfo(energy.dtype).tiny)
        total = share if total is None else total + share
    assert total is not None
    return total / len(members)
