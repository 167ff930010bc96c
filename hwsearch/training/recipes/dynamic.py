"""Dynamic sparse training (SET, RigL): a constant number of weights whose support moves while it trains."""

from __future__ import annotations

from math import cos, floor, pi
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from hwsearch.training.recipes.base import Session, mask_gradients
from hwsearch.training.recipes.masking import (
    MaskedRecipe,
    budget_masks,
    check_targets,
    checked_sparsity,
)
from search_spaces.criteria import random_scores
from search_spaces.pattern import top_mask


def drop_fraction(done: float, alpha: float) -> float:
    """Returns alpha / 2 (1 + cos(pi t / T_end)), with done = t / T_end cut to [0, 1]. Source: RigL, section 3."""
    return alpha / 2.0 * (1.0 + cos(pi * min(max(done, 0.0), 1.0)))


def moved_mask(weight: Tensor, mask: Tensor, growth: Tensor, fraction: float) -> Tensor:
    """Returns the mask after dropping floor(fraction * active) smallest weights and growing as many.

    Weights that were just dropped may grow again, as in RigL; of ties the lower flat index.

    Args:
        weight: current values.
        mask: current support.
        growth: score of growing each weight (|gradient|, or random).
        fraction: share of the active weights that is dropped.
    """
    active = int(mask.sum())
    moves = floor(fraction * active)
    stays = top_mask(weight.detach().abs().masked_fill(~mask, -1.0), active - moves)
    grown = top_mask(growth.detach().masked_fill(stays, -1.0), min(moves, weight.numel() - active + moves))
    return stays | grown


class DynamicSparsity(MaskedRecipe):
    """Starts from random masks; every `every` steps drops the smallest weights and grows as many others.

    RigL (Evci et al. 2020) grows where the dense gradient is largest, SET (Mocanu et al. 2018) at random. New
    weights start at zero. Deviation from RigL: the optimizer's step is taken in steps that move the support, too.

    Args:
        sparsity: constant, in [0, 1).
        grow: `gradient` (RigL) or `random` (SET).
        every: steps between two moves.
        fraction: share of the active weights moved at first; falls along a cosine.
        end: share of the training after which the support stays.
        budget: of the random start: `erk` or `uniform`.
    """

    name = "dynamic"

    def __init__(
        self,
        *,
        sparsity: float,
        grow: Literal["gradient", "random"] = "gradient",
        every: int = 20,
        fraction: float = 0.3,
        end: float = 0.75,
        budget: Literal["erk", "uniform"] = "erk",
    ) -> None:
        if not 0.0 < fraction <= 1.0:
            raise ValueError(f"fraction must be in (0, 1], but got {fraction}.")
        if every < 1:
            raise ValueError(f"every must be at least 1 step, but got {every}.")
        if not 0.0 < end <= 1.0:
            raise ValueError(f"end must be in (0, 1], but got {end}.")
        self.sparsity, self.grow, self.every = checked_sparsity(sparsity), grow, every
        self.fraction, self.end, self.budget = fraction, end, budget

    def start(self, session: Session) -> None:
        """Draws the first support."""
        super().start(session)
        check_targets(session, self.sparsity)
        rng = np.random.default_rng([session.seed, 0, 12])
        self.set_masks(budget_masks(session.targets, self.sparsity, budget=self.budget, criterion="random", rng=rng))

    def on_gradients(self, step: int) -> None:
        """Moves the support at the scheduled steps, from dense gradients; then keeps gradients inside the masks."""
        last = self.end * self.session.n_steps
        if step > 0 and step % self.every == 0 and step < last:
            fraction = drop_fraction(step / last, self.fraction)
            rng = np.random.default_rng([self.session.seed, step, 13])
            masks = {}
            for name, mask in self.masks.items():
                weight = self.session.targets[name]
                gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
                growth = gradient.abs() if self.grow == "gradient" else random_scores(weight, rng)
                masks[name] = moved_mask(weight, mask, growth, fraction)
            self.set_masks(masks)
        mask_gradients(self.session, self._factors)
