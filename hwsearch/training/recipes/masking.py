"""Masks from a budget and a criterion, and the recipe that keeps a fixed one: one-shot pruning, random control."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from torch import Tensor

from hwsearch.training.recipes.base import Recipe, Session, mask_gradients, zero_where
from search_spaces.budgets import check_budget, erdos_renyi_kernel, global_masks, lamp_scores, layerwise_masks, uniform
from search_spaces.criteria import magnitude, random_scores

BudgetName = Literal["uniform", "erk", "global", "lamp"]
CriterionName = Literal["magnitude", "random"]


def budget_masks(
    weights: Mapping[str, Tensor],
    sparsity: float,
    *,
    budget: BudgetName,
    criterion: CriterionName = "magnitude",
    rng: np.random.Generator | None = None,
) -> dict[str, Tensor]:
    """Returns masks over several layers with exactly the given sparsity together (each layer keeps a weight).

    Args:
        weights: by name.
        sparsity: in [0, 1).
        budget: `uniform` and `erk` fix each layer's share; `global` compares scores of all layers, `lamp`
            magnitudes relative to the layer's larger ones.
        criterion: magnitude, or random scores from `rng` (not with `lamp`).
        rng: for random scores.
    """
    if criterion == "random":
        if rng is None or budget == "lamp":
            raise ValueError("random scores must come with a generator and a budget other than lamp.")
        scores = {name: random_scores(w, rng) for name, w in weights.items()}
    else:
        scores = {name: lamp_scores(w) if budget == "lamp" else magnitude(w) for name, w in weights.items()}
    if budget in {"global", "lamp"}:
        return global_masks(scores, 1.0 - sparsity)
    shapes = {name: tuple(w.shape) for name, w in weights.items()}
    share = uniform if budget == "uniform" else erdos_renyi_kernel
    return layerwise_masks(scores, share(shapes, 1.0 - sparsity))


class MaskedRecipe(Recipe):
    """What all recipes share that keep masked weights at exactly zero.

    Weights and optimizer memory are zeroed where a mask changes, gradients in every step; so nothing moves there,
    whatever the optimizer. The masks are the state.
    """

    owns: ClassVar[frozenset[str]] = frozenset({"masks"})

    @property
    def masks(self) -> dict[str, Tensor]:
        """Weight name -> boolean mask."""
        return self._masks

    @masks.setter
    def masks(self, masks: dict[str, Tensor]) -> None:
        self._masks = masks
        self._factors = {name: mask.to(self.session.targets[name].dtype) for name, mask in masks.items()}

    def set_masks(self, masks: Mapping[str, Tensor]) -> None:
        """Takes over new masks and zeroes what they drop."""
        self.masks = dict(masks)
        for name, mask in self.masks.items():
            zero_where(self.session, name, ~mask)

    def on_gradients(self, step: int) -> None:
        """Keeps gradients inside the masks."""
        mask_gradients(self.session, self._factors)

    def state(self) -> dict[str, Tensor]:
        """Returns the masks."""
        return dict(self.masks)

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over the masks of a checkpoint."""
        device = next(iter(self.session.targets.values())).device
        self.masks = {name: tensor.to(device) for name, tensor in tensors.items()}

    def finish(self) -> None:
        """Makes every masked weight zero once more (an averaged model may have brought some back)."""
        for name, mask in self.masks.items():
            zero_where(self.session, name, ~mask)


class FixedMask(MaskedRecipe):
    """A mask chosen before the first step and kept: one-shot pruning of given weights, or a random sparse start.

    Sources: one-shot magnitude pruning (Han et al. 2015); random masks with ERK budgets as the strong control
    (Unreasonable Effectiveness of Random Pruning, Liu et al. 2022).

    Args:
        sparsity: share of zeros among the targets, in [0, 1).
        budget: how it is shared out.
        criterion: `magnitude` or `random`.
    """

    name = "fixed_mask"

    def __init__(self, *, sparsity: float, budget: BudgetName = "erk", criterion: CriterionName = "magnitude") -> None:
        self.sparsity, self.budget, self.criterion = checked_sparsity(sparsity), budget, criterion

    def start(self, session: Session) -> None:
        """Chooses the mask."""
        super().start(session)
        check_targets(session, self.sparsity)
        rng = np.random.default_rng([session.seed, 0, 11])
        self.set_masks(
            budget_masks(session.targets, self.sparsity, budget=self.budget, criterion=self.criterion, rng=rng)
        )


class GivenMask(MaskedRecipe):
    """Masks given from outside and kept: retraining after pruning, fine-tuning a chosen net.

    Args:
        masks: weight name -> mask; other weights stay dense.
    """

    name = "given_mask"

    def __init__(self, *, masks: Mapping[str, Tensor]) -> None:
        self.given = dict(masks)

    def start(self, session: Session) -> None:
        """Applies the masks."""
        super().start(session)
        for name, mask in self.given.items():
            if name not in session.targets or session.targets[name].shape != mask.shape:
                raise ValueError(f"mask {name!r} must match a weight of the network, but does not.")
        self.set_masks(self.given)


def checked_sparsity(sparsity: float) -> float:
    """Returns the sparsity if it is in [0, 1).

    Raises:
        ValueError: it is not.
    """
    if not 0.0 <= sparsity < 1.0:
        raise ValueError(f"sparsity must be in [0, 1), but got {sparsity}.")
    return sparsity


def check_targets(session: Session, sparsity: float) -> None:
    """Raises ValueError if the budget leaves some layer without a weight."""
    check_budget({name: tuple(w.shape) for name, w in session.targets.items()}, 1.0 - sparsity)
