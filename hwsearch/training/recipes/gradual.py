"""Gradual magnitude pruning: the sparsity rises along a cubic while training goes on."""

from __future__ import annotations

import torch
from torch import Tensor

from hwsearch.training.recipes.base import Session
from hwsearch.training.recipes.masking import (
    BudgetName,
    MaskedRecipe,
    budget_masks,
    check_targets,
    checked_sparsity,
)


def cubic_sparsity(done: float, initial: float, final: float) -> float:
    """Returns s_f + (s_i - s_f) (1 - done)^3, with done = (t - t_0) / (n dt) cut to [0, 1].

    Source: To prune, or not to prune (Zhu and Gupta 2017), eq. 1.
    """
    left = 1.0 - min(max(done, 0.0), 1.0)
    return final + (initial - final) * left**3


class GradualPruning(MaskedRecipe):
    """Every `every` steps between `begin` and `end`, masks of the scheduled sparsity are chosen by magnitude.

    A dropped weight is zero and gets no gradient, so masks only shrink.

    Args:
        sparsity: at the end, in [0, 1).
        initial: at the beginning.
        begin: share of the training at which pruning begins.
        end: share at which the final sparsity is reached; the rest recovers.
        every: steps between two prunings.
        budget: how the sparsity is shared out.
    """

    name = "gradual"

    def __init__(
        self,
        *,
        sparsity: float,
        initial: float = 0.0,
        begin: float = 0.1,
        end: float = 0.7,
        every: int = 10,
        budget: BudgetName = "global",
    ) -> None:
        if not 0.0 <= begin < end <= 1.0:
            raise ValueError(f"gradual pruning must have 0 <= begin < end <= 1, but got {begin} and {end}.")
        if every < 1:
            raise ValueError(f"every must be at least 1 step, but got {every}.")
        self.sparsity, self.initial = checked_sparsity(sparsity), checked_sparsity(initial)
        self.begin, self.end, self.every, self.budget = begin, end, every, budget

    def start(self, session: Session) -> None:
        """Begins dense."""
        super().start(session)
        check_targets(session, self.sparsity)
        self.masks = {name: torch.ones_like(w, dtype=torch.bool) for name, w in session.targets.items()}
        first, last = self._span()
        # The last pruning is at `last`, whatever `every` is; so the final sparsity is always reached.
        self._updates = {*range(first, last, self.every), last}

    def _span(self) -> tuple[int, int]:
        steps = self.session.n_steps
        return int(self.begin * steps), max(int(self.begin * steps), min(int(self.end * steps), steps - 1))

    def after_step(self, step: int) -> None:
        """Prunes at the scheduled steps."""
        if step not in self._updates:
            return
        first, last = self._span()
        done = 1.0 if step == last else (step - first) / (last - first)
        sparsity = cubic_sparsity(done, self.initial, self.sparsity)
        if sparsity > 0.0:
            self.set_masks(self.choose(sparsity))

    def choose(self, sparsity: float) -> dict[str, Tensor]:
        """Returns the masks of a pruning; dropped weights are zero and so never chosen before others."""
        return budget_masks(self.session.targets, sparsity, budget=self.budget)
