"""Lottery Jackpots: given weights stay frozen, only the mask learns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from hwsearch.training.recipes.base import Recipe, Session, straight_through
from hwsearch.training.recipes.masking import budget_masks, check_targets, checked_sparsity
from search_spaces.pattern import top_mask


def limited_change(mask: Tensor, scores: Tensor, limit: int) -> Tensor:
    """Returns the top-k mask of `scores` (k as in `mask`), but at most `limit` weights leave and as many enter.

    Those that gain most change first: the entering ones with the largest scores, the leaving ones with the smallest.
    """
    wanted = top_mask(scores, int(mask.sum()))
    enter, leave = wanted & ~mask, mask & ~wanted
    count = int(enter.sum())
    if count <= limit:
        return wanted
    floor = torch.finfo(scores.dtype).min
    entering = top_mask(scores.masked_fill(~enter, floor), limit)
    leaving = top_mask((-scores).masked_fill(~leave, floor), limit)
    return (mask & ~leaving) | entering


class LotteryJackpots(Recipe):
    """Scores decide a mask over frozen weights; they start at |w| and learn with a straight-through gradient.

    The forward pass uses w * top-k(scores); d loss / d score = (d loss / d w_used) * w. All other parameters
    (biases, norms) are frozen as well, unless `train_rest`. How many weights change side per step is limited by a
    share that falls linearly to 0. Source: Lottery Jackpots Exist in Pre-trained Models (Zhang et al. 2023).

    Args:
        sparsity: share of zeros among the targets, in [0, 1).
        rate: learning rate of the scores, in units of a layer's mean |w| per unit of the relative gradient.
        momentum: of the scores.
        change: largest share of the kept weights that may change side in the first step.
        train_rest: biases and norms learn by the training's optimizer.
    """

    name = "jackpots"
    owns: ClassVar[frozenset[str]] = frozenset({"masks", "values"})

    def __init__(
        self,
        *,
        sparsity: float,
        rate: float = 0.1,
        momentum: float = 0.9,
        change: float = 0.02,
        train_rest: bool = False,
    ) -> None:
        if rate <= 0.0:
            raise ValueError(f"rate must be positive, but got {rate}.")
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"momentum must be in [0, 1), but got {momentum}.")
        if not 0.0 <= change <= 1.0:
            raise ValueError(f"change must be in [0, 1], but got {change}.")
        self.sparsity, self.rate, self.momentum = checked_sparsity(sparsity), rate, momentum
        self.change, self.train_rest = change, train_rest

    def start(self, session: Session) -> None:
        """Starts from the magnitude mask of the given weights."""
        super().start(session)
        check_targets(session, self.sparsity)
        self.masks = budget_masks(session.targets, self.sparsity, budget="global")
        self.scores = {name: w.detach().abs().clone() for name, w in session.targets.items()}
        self.velocity = {name: torch.zeros_like(w) for name, w in self.scores.items()}

    def weights(self, weights: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Returns masked weights whose gradient reaches all of them."""
        out = dict(weights)
        for name, mask in self.masks.items():
            out[name] = straight_through(weights[name], mask)
        return out

    @torch.no_grad()
    def on_gradients(self, step: int) -> None:
        """Moves scores and masks; takes the gradients away, so that the optimizer leaves the weights alone."""
        share = self.change * (1.0 - self.session.done(step))
        for name, weight in self.session.targets.items():
            if weight.grad is None:
                continue
            gradient = weight.grad * weight
            scale = gradient.abs().mean().clamp_min(torch.finfo(gradient.dtype).tiny)
            self.velocity[name].mul_(self.momentum).add_(gradient / scale)
            self.scores[name].sub_(self.velocity[name], alpha=self.rate * float(weight.abs().mean()))
            limit = int(np.ceil(share * int(self.masks[name].sum())))
            self.masks[name] = limited_change(self.masks[name], self.scores[name], limit)
        targets = set(self.session.targets.values())
        for parameter in self.session.model.parameters():
            if parameter in targets or not self.train_rest:
                parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """Returns masks, scores and velocities."""
        parts = {"mask": self.masks, "score": self.scores, "velocity": self.velocity}
        return {f"{part}/{name}": t for part, tensors in parts.items() for name, t in tensors.items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over masks, scores and velocities."""
        for name, weight in self.session.targets.items():
            self.masks[name] = tensors[f"mask/{name}"].to(weight.device)
            self.scores[name] = torch.empty_like(weight).copy_(tensors[f"score/{name}"]).detach()
            self.velocity[name] = torch.empty_like(weight).copy_(tensors[f"velocity/{name}"]).detach()

    @torch.no_grad()
    def finish(self) -> None:
        """Applies the mask."""
        for name, mask in self.masks.items():
            self.session.targets[name].masked_fill_(~mask, 0.0)
