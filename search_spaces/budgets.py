"""Budgets: how a global density is shared out among layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from search_spaces.pattern import top_mask

Shapes = Mapping[str, tuple[int, ...]]
"""Weight name -> shape: (outputs, inputs) or (outputs, inputs, kernel, kernel)."""


def _sizes(shapes: Shapes) -> dict[str, int]:
    return {name: int(np.prod(shape)) for name, shape in shapes.items()}


def check_budget(shapes: Shapes, density: float) -> None:
    """Raises ValueError unless the density is in (0, 1] and leaves every layer at least one weight."""
    if not 0.0 < density <= 1.0:
        raise ValueError(f"density must be in (0, 1], but got {density}.")
    total = sum(_sizes(shapes).values())
    if round(density * total) < len(shapes):
        raise ValueError(
            f"a budget must leave at least one weight to each of {len(shapes)} layers, but density {density:g} "
            f"of {total} weights leaves {round(density * total)}."
        )


def uniform(shapes: Shapes, density: float) -> dict[str, float]:
    """Returns the same density for every layer."""
    check_budget(shapes, density)
    return dict.fromkeys(shapes, density)


def erdos_renyi_kernel(shapes: Shapes, density: float) -> dict[str, float]:
    """Returns densities proportional to (c_in + c_out + k_h + k_w) / (c_in c_out k_h k_w), at most 1.

    Scaled so that the layers together have the global density; layers that would pass 1 are dense and the rest is
    scaled again. A linear layer has no kernel terms. Source: RigL (Evci et al. 2020), section 3.
    """
    check_budget(shapes, density)
    sizes = _sizes(shapes)
    raw = {name: sum(shape) / sizes[name] for name, shape in shapes.items()}
    dense: set[str] = set()
    budget = density * sum(sizes.values())
    while len(dense) < len(shapes):
        free = budget - sum(sizes[name] for name in dense)
        scale = free / sum(raw[name] * sizes[name] for name in shapes if name not in dense)
        passed = [name for name in shapes if name not in dense and scale * raw[name] > 1.0]
        if not passed:
            return {name: 1.0 if name in dense else scale * raw[name] for name in shapes}
        dense.update(passed)
    return dict.fromkeys(shapes, 1.0)


Budget = Callable[[Shapes, float], dict[str, float]]


def keep_counts(shapes: Shapes, densities: Mapping[str, float]) -> dict[str, int]:
    """Returns whole numbers of weights to keep, at least 1 per layer, whose sum is the rounded sum of the budget.

    Largest remainders get the weights that rounding down leaves over; of ties the first layer.
    """
    sizes = _sizes(shapes)
    exact = {name: min(densities[name], 1.0) * sizes[name] for name in shapes}
    # A hair above, so that 0.1 * 30 = 3.0000000000000004 and its lower neighbours count alike.
    counts = {name: max(1, int(value + 1e-9)) for name, value in exact.items()}
    missing = round(round(sum(exact.values()), 6)) - sum(counts.values())  # a sum of floats may miss a half by a hair
    for name in sorted(shapes, key=lambda n: counts[n] - exact[n]):
        if missing > 0 and counts[name] < sizes[name]:
            counts[name], missing = counts[name] + 1, missing - 1
    while missing < 0 and max(counts.values()) > 1:  # the minimum of 1 gave away more than there was
        name = max(shapes, key=lambda n: counts[n])
        counts[name], missing = counts[name] - 1, missing + 1
    return counts


def layerwise_masks(scores: Mapping[str, Tensor], densities: Mapping[str, float]) -> dict[str, Tensor]:
    """Returns masks that keep the best scores of each layer, as many as `keep_counts` says."""
    counts = keep_counts({name: tuple(s.shape) for name, s in scores.items()}, densities)
    return {name: top_mask(s, counts[name]) for name, s in scores.items()}


def global_masks(scores: Mapping[str, Tensor], density: float) -> dict[str, Tensor]:
    """Returns masks that keep the best scores of all layers together, and the best one of every layer.

    Of equal scores the ones in earlier layers and with lower flat index are kept.
    """
    check_budget({name: tuple(s.shape) for name, s in scores.items()}, density)
    flat = torch.cat([s.reshape(-1) for s in scores.values()])
    start = 0
    for s in scores.values():
        flat[start + int(s.reshape(-1).argmax())] = torch.inf
        start += s.numel()
    mask = top_mask(flat, round(density * flat.numel()))
    parts = torch.split(mask, [s.numel() for s in scores.values()])
    return {name: part.view(s.shape) for (name, s), part in zip(scores.items(), parts, strict=True)}


def lamp_scores(weight: Tensor) -> Tensor:
    """Returns w_u^2 / sum of w_v^2 over all v of the layer with |w_v| >= |w_u|, to be compared among layers.

    Of equal magnitudes the one with the higher flat index counts as larger. The largest weight of a layer has
    score 1, so no layer is emptied. Source: the LAMP score (Lee et al. 2021).
    """
    squares = weight.detach().reshape(-1).double().square()
    order = squares.argsort(stable=True)
    ascending = squares[order]
    tails = ascending.flip(0).cumsum(0).flip(0)
    scores = torch.empty_like(squares)
    scores[order] = ascending / tails.clamp_min(torch.finfo(torch.float64).tiny)
    return scores.view(weight.shape)
