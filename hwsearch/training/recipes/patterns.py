"""Training towards a sparsity pattern (n:m, blocks, ...): straight-through, mask decay, structure decay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from hwsearch.training.recipes.base import Recipe, RecipeError, Session, straight_through
from search_spaces.pattern import Pattern, masked
from search_spaces.sparsity import NOfM, parse_pattern


class PatternRecipe(Recipe):
    """What the three share: the pattern's mask of the current weights in every step, and exact zeros at the end.

    Layers that the pattern does not fit stay dense and are listed in `dense_layers`.

    Args:
        pattern: a name that `parse_pattern` reads, not `dense`.
    """

    owns: ClassVar[frozenset[str]] = frozenset({"masks"})

    def __init__(self, *, pattern: str) -> None:
        self.pattern: Pattern = parse_pattern(pattern)
        if pattern == "dense":
            raise ValueError(f"{self.name} must have a sparse pattern, but got 'dense'.")
        self.dense_layers: tuple[str, ...] = ()

    def start(self, session: Session) -> None:
        """Finds the layers that the pattern fits.

        Raises:
            RecipeError: it fits none.
        """
        super().start(session)
        masks = {name: self.pattern.mask(w) for name, w in session.targets.items()}
        self.dense_layers = tuple(name for name, mask in masks.items() if mask is None)
        if len(self.dense_layers) == len(masks):
            raise RecipeError(
                f"pattern {self.pattern.name} must fit at least one layer, but fits none of {list(masks)[:5]}."
            )

    def pattern_at(self, step: int) -> Pattern:
        """Returns the pattern in force at a step."""
        return self.pattern

    def masks_of(self, weights: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        """Returns the masks of all layers that the pattern fits."""
        pattern = self.pattern_at(step)
        masks = {name: pattern.mask(weights[name]) for name in self.session.targets if name not in self.dense_layers}
        return {name: mask for name, mask in masks.items() if mask is not None}

    @torch.no_grad()
    def finish(self) -> None:
        """Zeroes everything outside the pattern."""
        for name, mask in self.masks_of(self.session.targets, self.session.n_steps).items():
            self.session.targets[name].masked_fill_(~mask, 0.0)


class StraightThrough(PatternRecipe):
    """SR-STE: the forward pass uses masked weights, the gradient reaches all, masked ones decay towards zero.

    w <- w - rate (g(mask w) + decay (1 - mask) w). Source: Zhou et al. 2021, eq. 9 (n:m; here any pattern).

    Args:
        pattern: what the masked weights have.
        decay: lambda_W; 0 is the plain straight-through estimator.
    """

    name = "straight_through"

    def __init__(self, *, pattern: str, decay: float = 2e-4) -> None:
        super().__init__(pattern=pattern)
        if decay < 0.0:
            raise ValueError(f"decay must be at least 0, but got {decay}.")
        self.decay = decay

    def weights(self, weights: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Returns masked weights with straight-through gradients."""
        self._masks = self.masks_of(weights, step)
        out = dict(weights)
        for name, mask in self._masks.items():
            out[name] = straight_through(weights[name], mask)
        return out

    @torch.no_grad()
    def on_gradients(self, step: int) -> None:
        """Adds the decay of masked weights."""
        for name, mask in self._masks.items():
            parameter = self.session.targets[name]
            if parameter.grad is not None:
                parameter.grad.addcmul_(parameter, (~mask).to(parameter.dtype), value=self.decay)


class MaskDecay(PatternRecipe):
    """Progressive gradient flow, mask decay: masked weights are multiplied by beta_t, which falls from 1 to 0.

    w_used = w (mask + beta_t (1 - mask)), beta_t = max(0, 1 - done / end): while beta_t > 0 their gradient is
    decayed, not cut. Source: Progressive Gradient Flow for Robust N:M Sparsity Training (2024), MDGF.

    Args:
        pattern: at the end.
        end: share of the training at which beta reaches 0.
    """

    name = "mask_decay"

    def __init__(self, *, pattern: str, end: float = 0.7) -> None:
        super().__init__(pattern=pattern)
        if not 0.0 < end <= 1.0:
            raise ValueError(f"end must be in (0, 1], but got {end}.")
        self.end = end

    def beta(self, step: int) -> float:
        """Returns the factor on masked weights."""
        return max(0.0, 1.0 - self.session.done(step) / self.end)

    def weights(self, weights: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Returns weights with the masked ones faded."""
        beta, out = self.beta(step), dict(weights)
        for name, mask in self.masks_of(weights, step).items():
            out[name] = weights[name] * mask.to(weights[name].dtype).mul_(1.0 - beta).add_(beta)
        return out


class StructureDecay(PatternRecipe):
    """Progressive gradient flow, structure decay: M-1:M, then fewer and fewer, until n:m.

    The stages M-1, M/2, M/4, ... above n, then n, have equal shares of the time until `end`. Source: as for mask
    decay, SDGF.

    Args:
        pattern: n:m, at the end.
        end: share of the training at which the final pattern begins.
    """

    name = "structure_decay"

    def __init__(self, *, pattern: str, end: float = 0.7) -> None:
        super().__init__(pattern=pattern)
        if not isinstance(self.pattern, NOfM):
            raise ValueError(f"structure decay must have an n:m pattern, but got {pattern!r}.")
        if not 0.0 < end <= 1.0:
            raise ValueError(f"end must be in (0, 1], but got {end}.")
        self.end = end
        n, m = self.pattern.n, self.pattern.m
        halves = [m - 1] + [m // 2**i for i in range(1, m.bit_length()) if m // 2**i < m - 1]
        self.stages = tuple(NOfM(k, m) for k in halves if k > n)

    def pattern_at(self, step: int) -> Pattern:
        """Returns the stage's pattern."""
        done = self.session.done(step) / self.end
        stage = int(done * len(self.stages))
        return self.stages[stage] if stage < len(self.stages) else self.pattern

    def weights(self, weights: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Returns weights masked by the stage's pattern."""
        out = dict(weights)
        for name, mask in self.masks_of(weights, step).items():
            out[name] = masked(weights[name], mask)
        return out
