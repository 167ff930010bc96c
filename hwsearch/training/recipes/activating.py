"""Activating while pruning: gradual pruning that first removes what keeps neurons switched off."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hwsearch.training.recipes.base import RecipeError, Session
from hwsearch.training.recipes.gradual import GradualPruning
from hwsearch.training.recipes.masking import BudgetName
from search_spaces.budgets import global_masks, lamp_scores

MEMORY = 0.9
"""Of the running share of examples for which a neuron is at zero, per step."""


def activating_scores(scores: Tensor, weight: Tensor, off: Tensor, strength: float) -> Tensor:
    """Returns scores in which negative weights into neurons that are mostly off count for less.

    score * (1 - strength * off_i) where w_ij < 0: after a ReLU inputs are not negative, so removing a negative weight
    can only raise neuron i's input and switch it on more often.

    Args:
        scores: (outputs, ...) of the weight.
        weight: (outputs, ...).
        off: (outputs,) share of examples and positions at which the neuron's ReLU gives zero.
        strength: in [0, 1].
    """
    factor = 1.0 - strength * off.view(-1, *[1] * (weight.dim() - 1))
    return torch.where(weight.detach() < 0, scores * factor, scores)


class ActivatingPruning(GradualPruning):
    """Gradual magnitude pruning that counts which neurons ReLU keeps at zero and prunes so as to lower that rate.

    The idea of AP (Activating-while-Pruning); its search among alternating pruning methods is replaced by one
    score. A ReLU is attributed to the last conv or linear layer that ran before it.

    Args:
        sparsity, initial, begin, end, every: as for `GradualPruning`.
        budget: `global` or `lamp`.
        strength: how much less a negative weight counts that feeds a neuron which is always off, in [0, 1].
    """

    name = "activating"

    def __init__(
        self,
        *,
        sparsity: float,
        initial: float = 0.0,
        begin: float = 0.1,
        end: float = 0.7,
        every: int = 10,
        budget: BudgetName = "global",
        strength: float = 0.5,
    ) -> None:
        super().__init__(sparsity=sparsity, initial=initial, begin=begin, end=end, every=every, budget=budget)
        if budget not in {"global", "lamp"}:
            raise ValueError(f"activating pruning must have budget 'global' or 'lamp', but got {budget!r}.")
        if not 0.0 <= strength <= 1.0:
            raise ValueError(f"strength must be in [0, 1], but got {strength}.")
        self.strength = strength
        self._handles: list[RemovableHandle] = []

    def start(self, session: Session) -> None:
        """Watches the ReLUs.

        Raises:
            RecipeError: the network has none.
        """
        super().start(session)
        self.off = {name: torch.zeros(len(w), device=w.device) for name, w in session.targets.items()}
        self._last: str | None = None
        relus = [m for m in session.model.modules() if isinstance(m, nn.ReLU | nn.ReLU6)]
        if not relus:
            raise RecipeError("activating pruning must watch ReLUs, but the network has none.")
        self._handles = [relu.register_forward_hook(self._count) for relu in relus]
        for name, module in session.model.named_modules():
            weight = f"{name}.weight" if name else "weight"
            if isinstance(module, nn.Linear | nn.Conv2d):
                self._handles.append(module.register_forward_hook(self._remember(weight)))

    def _remember(self, weight: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            self._last = weight

        return hook

    @torch.no_grad()
    def _count(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        if self._last in self.off and module.training:
            zeros = (output == 0).float()
            rate = zeros.mean([d for d in range(output.dim()) if d != 1])
            if rate.shape == self.off[self._last].shape:
                self.off[self._last].mul_(MEMORY).add_(rate, alpha=1.0 - MEMORY)
        self._last = None

    def off_rate(self) -> float:
        """Returns the mean share of zeros over all watched neurons."""
        return float(torch.cat(list(self.off.values())).mean())

    def choose(self, sparsity: float) -> dict[str, Tensor]:
        """Returns the masks of the adjusted scores."""
        scores = {}
        for name, weight in self.session.targets.items():
            plain = lamp_scores(weight) if self.budget == "lamp" else weight.detach().abs().double()
            scores[name] = activating_scores(plain, weight, self.off[name].to(plain), self.strength)
        return global_masks(scores, 1.0 - sparsity)

    def state(self) -> dict[str, Tensor]:
        """Returns the masks and the rates."""
        masks = {f"mask/{name}": t for name, t in self.masks.items()}
        return masks | {f"off/{name}": t for name, t in self.off.items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over masks and rates."""
        super().load_state({n.removeprefix("mask/"): t for n, t in tensors.items() if n.startswith("mask/")})
        for name, off in self.off.items():
            off.copy_(tensors[f"off/{name}"])

    def stop(self) -> None:
        """Stops watching."""
        for handle in self._handles:
            handle.remove()
