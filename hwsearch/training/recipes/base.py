"""Recipe: the contract of everything that hooks into the loop, what it may see, and which contradict each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hwsearch.errors import UserError
from search_spaces.pattern import masked


class RecipeError(UserError):
    """A recipe that cannot do what it is asked to, or contradicts another."""


@dataclass(frozen=True)
class Session:
    """What a recipe may see and change.

    Args:
        model: being trained.
        optimizer: its memory is cleared where weights become zero.
        n_steps: of the whole training.
        seed: of the training; recipes draw from `default_rng([seed, step, own number])`.
        targets: weights that may become sparse, by name: conv and linear, not grouped.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    n_steps: int
    seed: int
    targets: Mapping[str, nn.Parameter]

    def done(self, step: int) -> float:
        """Returns the share of the training that is over before `step` (from 0)."""
        return step / self.n_steps


class Recipe:
    """Hooks of the loop, all of which may do nothing.

    Order in a step: `weights` and `penalty` (inside the forward pass), `on_gradients`, optimizer, `after_step`.
    A recipe object serves one training. Its state is tensors, so that a checkpoint holds it; everything else
    follows from arguments, seed and step.
    """

    name: ClassVar[str]
    owns: ClassVar[frozenset[str]] = frozenset()
    """`masks`: decides which weights are zero. `values`: decides how weights change. One owner each."""

    session: Session

    def start(self, session: Session) -> None:
        """Called once, before the first step, with the model's initial weights."""
        self.session = session

    def weights(self, weights: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Returns what the forward pass uses instead of the parameters; differentiable."""
        return weights

    def penalty(self, weights: Mapping[str, Tensor], step: int) -> Tensor | None:
        """Returns a term added to the loss."""
        return None

    def on_gradients(self, step: int) -> None:
        """Called after the backward pass; may change gradients, and weights before the optimizer does."""

    def after_step(self, step: int) -> None:
        """Called after the optimizer."""

    def state(self) -> dict[str, Tensor]:
        """Returns what a checkpoint must hold."""
        return {}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Called after `start` when a training goes on."""

    def finish(self) -> None:
        """Called once at the end: the plain parameters become what the forward pass used."""

    def stop(self) -> None:
        """Called last, however the training ended: takes hooks off the model."""


def prunable(model: nn.Module, keep_dense: Iterable[str] = ()) -> dict[str, nn.Parameter]:
    """Returns the weights of conv and linear layers without groups, by name; names under `keep_dense` are left out.

    Raises:
        RecipeError: nothing is left, or a name in `keep_dense` that the model does not have.
    """
    keep = tuple(keep_dense)
    names = dict(model.named_modules())
    for name in keep:
        if name not in names:
            raise RecipeError(f"keep_dense must name modules of the network, but {name!r} is none.")
    found = {}
    for name, module in names.items():
        plain = isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
        if plain and not any(name == k or name.startswith(f"{k}.") for k in keep):
            weight = module.weight
            assert isinstance(weight, nn.Parameter)
            found[f"{name}.weight" if name else "weight"] = weight
    if not found:
        raise RecipeError("a network must have a conv or linear layer that may be sparse, but has none.")
    return found


def check_combination(recipes: Sequence[Recipe]) -> None:
    """Raises RecipeError where two recipes decide over the same thing."""
    for a, b in combinations(recipes, 2):
        both = sorted(a.owns & b.owns)
        if both:
            what = {"masks": "which weights are zero", "values": "how weights change"}[both[0]]
            raise RecipeError(f"recipes must not contradict each other, but {a.name} and {b.name} both decide {what}.")


@torch.no_grad()
def zero_where(session: Session, name: str, dropped: Tensor) -> None:
    """Sets weights and the optimizer's memory of them to zero; with masked gradients they then stay exactly zero."""
    parameter = session.targets[name]
    factor = (~dropped).to(parameter.dtype)
    parameter.mul_(factor).add_(0.0)  # no -0 stays: an export would store it as a value
    for value in session.optimizer.state.get(parameter, {}).values():
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            value.mul_(factor)


def mask_gradients(session: Session, factors: Mapping[str, Tensor]) -> None:
    """Multiplies the gradients of masked weights by their masks, given as 0 and 1 in the weights' type.

    A product: filling by a boolean mask takes ten times as long on a CPU.
    """
    for name, factor in factors.items():
        gradient = session.targets[name].grad
        if gradient is not None:
            gradient.mul_(factor)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor) -> Tensor:
        return masked(weight, mask)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def straight_through(weight: Tensor, mask: Tensor) -> Tensor:
    """Returns the masked weight, whose gradient reaches all of the weight (Bengio et al. 2013)."""
    used: Tensor = _StraightThrough.apply(weight, mask)  # type: ignore[no-untyped-call]
    return used


def sparsity_of(masks_or_weights: Mapping[str, Tensor]) -> float:
    """Returns the share of zeros over all tensors together."""
    total = sum(t.numel() for t in masks_or_weights.values())
    return 1.0 - sum(int(torch.count_nonzero(t)) for t in masks_or_weights.values()) / total
