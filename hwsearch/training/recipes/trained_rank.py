"""Trained rank pruning: a nuclear-norm pull and a truncated SVD every few steps make weights low-rank."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from hwsearch.training.recipes.base import Recipe, Session
from search_spaces.low_rank import rank_of


def truncated(weight: Tensor, rank: int) -> Tensor:
    """Returns the best approximation of rank `rank` of the weight as (outputs, rest), in the weight's shape."""
    matrix = weight.detach().reshape(len(weight), -1)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    product: Tensor = (left[:, :rank] * values[:rank]) @ right[:rank]
    return product.reshape(weight.shape)


def nuclear_subgradient(weight: Tensor) -> Tensor:
    """Returns U V^T of the weight's SVD over its non-zero singular values: a sub-gradient of the nuclear norm."""
    matrix = weight.detach().reshape(len(weight), -1)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    rank = int((values > values[0] * 1e-6).sum()) if float(values[0]) > 0 else 0
    product: Tensor = left[:, :rank] @ right[:rank]
    return product.reshape(weight.shape)


class TrainedRankPruning(Recipe):
    """Every `every` steps all targets are truncated to their rank; each step adds strength * U V^T to the gradient.

    The sub-gradient is taken anew at every truncation and kept in between. At the end every target has exactly the
    rank, and `search_spaces.low_rank.factorise` splits it without loss. Source: Trained Rank Pruning (Xu et al.
    2019), eq. 4 and algorithm 1.

    Args:
        ratio: share of the full rank that stays, in (0, 1].
        every: steps between two truncations.
        strength: of the nuclear norm.
    """

    name = "trained_rank"
    owns: ClassVar[frozenset[str]] = frozenset({"masks"})  # a truncated weight has no zeros left

    def __init__(self, *, ratio: float, every: int = 20, strength: float = 3e-4) -> None:
        if not 0.0 < ratio <= 1.0:
            raise ValueError(f"ratio must be in (0, 1], but got {ratio}.")
        if every < 1:
            raise ValueError(f"every must be at least 1 step, but got {every}.")
        if strength < 0.0:
            raise ValueError(f"strength must be at least 0, but got {strength}.")
        self.ratio, self.every, self.strength = ratio, every, strength

    def start(self, session: Session) -> None:
        """Takes the first sub-gradients."""
        super().start(session)
        self._pull = {name: nuclear_subgradient(w) for name, w in session.targets.items()}

    def rank(self, weight: Tensor) -> int:
        """Returns the rank that a weight keeps."""
        kernel = weight.shape[2] if weight.dim() > 2 else 1
        return int(rank_of(self.ratio, weight.shape[0], weight.shape[1], kernel))

    @torch.no_grad()
    def on_gradients(self, step: int) -> None:
        """Adds the pull towards low rank."""
        for name, pull in self._pull.items():
            gradient = self.session.targets[name].grad
            if gradient is not None:
                gradient.add_(pull, alpha=self.strength)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Truncates at the scheduled steps."""
        if (step + 1) % self.every:
            return
        for name, weight in self.session.targets.items():
            weight.copy_(truncated(weight, self.rank(weight)))
            self._pull[name] = nuclear_subgradient(weight)

    def state(self) -> dict[str, Tensor]:
        """Returns the sub-gradients in force."""
        return dict(self._pull)

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over the sub-gradients."""
        self._pull = {name: tensor.to(self.session.targets[name].device) for name, tensor in tensors.items()}

    @torch.no_grad()
    def finish(self) -> None:
        """Truncates once more."""
        for weight in self.session.targets.values():
            weight.copy_(truncated(weight, self.rank(weight)))
