"""Robust aggregation: one gradient from those of many workers, of which a few may be wrong."""

from __future__ import annotations

from math import ceil
from typing import Literal

import torch
from torch import Tensor

Aggregation = Literal["mean", "median", "trimmed_mean", "flag"]

ROUNDS = 5
"""Of the reweighting of `flag`."""


def aggregate(gradients: Tensor, kind: Aggregation, *, n_faulty: int = 1) -> Tensor:
    """Returns one gradient, (d,). Rows that are not finite take no part; if none is finite, the answer is NaN.

    Args:
        gradients: one row per worker, (n, d).
        kind: `mean`, `median` (of every coordinate), `trimmed_mean` or `flag`.
        n_faulty: how many values `trimmed_mean` drops at either end.
    """
    finite = gradients[gradients.isfinite().all(dim=1)]
    if not len(finite):
        return torch.full_like(gradients[0], torch.nan)
    if kind == "median":
        return median(finite)
    if kind == "trimmed_mean":
        # Whoever sent no finite row was one of the faulty ones, but at either end.
        missing = len(gradients) - len(finite)
        return trimmed_mean(finite, min(max(n_faulty - missing, 0), (len(finite) - 1) // 2))
    return flag(finite) if kind == "flag" else finite.mean(dim=0)


def median(gradients: Tensor) -> Tensor:
    """Returns the median of every coordinate, the mean of the middle two for an even number.

    Source: Byzantine-Robust Distributed Learning (Yin et al. 2018), definition 1.

    Args:
        gradients: (n, d), finite.
    """
    return trimmed_mean(gradients, (len(gradients) - 1) // 2)


def trimmed_mean(gradients: Tensor, k: int) -> Tensor:
    """Returns the mean of every coordinate without its `k` largest and `k` smallest values.

    Source: Byzantine-Robust Distributed Learning (Yin et al. 2018), definition 2.

    Args:
        gradients: (n, d), finite.
        k: 0 .. (n - 1) / 2.
    """
    n = len(gradients)
    if not 0 <= k <= (n - 1) // 2:
        raise ValueError(f"k must be in 0 .. {(n - 1) // 2} for {n} gradients, but got {k}.")
    return gradients.sort(dim=0).values[k : n - k].mean(dim=0)


def flag(gradients: Tensor, *, dimension: int | None = None, pairs: float = 1.0) -> Tensor:
    """Returns the mean gradient within the subspace on which the workers agree, (d,).

    The subspace Y minimises sum_i sqrt(1 - |Y'g_i|^2) + pairs / (n - 1) * sum_{i<j} sqrt(1 - |Y'd_ij|^2) over the
    gradients g_i of unit length and the directions d_ij of their differences, by iteratively reweighted least
    squares; the answer is the mean of Y Y'g_i. Source: Flag Aggregator (Almasi, Mishra, Vamanan and Ravi 2023), with
    the flag median of Mankovich et al. (2022).

    Unit gradients have no length: the answer is scaled by the median length, which a faulty minority does not decide.
    All of this happens in the n-dimensional span of the gradients, so that only two products are as long as they are.

    Args:
        gradients: (n, d), finite.
        dimension: of the subspace; by default ceil((n + 1) / 2), as in the paper.
        pairs: weight of the differences; 0 leaves the flag median.
    """
    n = len(gradients)
    lengths = gradients.norm(dim=1)
    unit = gradients / lengths.clamp_min(torch.finfo(gradients.dtype).tiny)[:, None]  # (n, d)
    values, vectors = torch.linalg.eigh((unit @ unit.T).double())
    values = values.clamp_min(0.0)
    points = values.sqrt() * vectors  # (n, n): the gradients in an orthonormal basis of their span
    first, second = torch.triu_indices(n, n, offset=1)
    differences = points[first] - points[second]
    apart = differences.norm(dim=1)
    differences, apart = differences[apart > 1e-6], apart[apart > 1e-6]
    members = torch.cat([points, differences / apart[:, None]])
    base = torch.cat([torch.ones(n), torch.full((len(apart),), pairs / max(n - 1, 1))]).to(members)
    weights = base
    size = min(n, ceil((n + 1) / 2) if dimension is None else dimension)
    for _ in range(ROUNDS):
        basis = torch.linalg.svd(weights.sqrt()[:, None] * members, full_matrices=False).Vh[:size]  # (size, n)
        outside = (1.0 - (members @ basis.T).square().sum(dim=1)).clamp_min(1e-6)
        weights = base / outside.sqrt()
    mean = basis.T @ (basis @ points.mean(dim=0))  # (n,), in the basis of the span
    # The basis vector of eigenvalue v is unit' vectors / sqrt(v); what has no extent carries nothing.
    seen = values > values.max() * 1e-12
    shares = vectors[:, seen] @ (mean[seen] / values[seen].sqrt())
    answer: Tensor = lengths.median() * (shares.to(unit) @ unit)
    return answer
