"""Kernel groups: a few supports per layer, each shared by a group of output channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from search_spaces.pattern import FP32_BYTES, Pattern, kept, row_mask

REFINEMENTS = 3
"""Rounds of re-assigning outputs and re-choosing supports; further rounds hardly change anything."""


@dataclass(frozen=True)
class KernelGroups(Pattern):
    """The outputs of a layer form `groups` groups of equal size; all outputs of a group keep the same inputs.

    An input here is one (input channel, kernel position). The supports are chosen by alternation, as in k-means:
    a group keeps the inputs with the largest summed score over its outputs; an output joins the group whose
    support keeps most of its score, as far as there is room. `arrangement` gives the order of outputs that an
    engine wants: groups behind one another. Encoding: the kept values, one bit per input and group, and per
    output its group in ceil(log2 groups) bits. Source: SparseByteNN's kernel patterns shared by
    groups of output channels; instead of a fixed library of patterns, supports are chosen per layer.

    Args:
        groups: number of groups, at least 1.
        sparsity: share of the inputs that every output drops.
    """

    groups: int
    sparsity: float

    def __post_init__(self) -> None:
        if self.groups < 1:
            raise ValueError(f"kernel groups must be at least 1, but got {self.groups}.")
        if not 0.0 < self.sparsity < 1.0:
            raise ValueError(f"kernel-group sparsity must be between 0 and 1, but got {self.sparsity}.")

    @property
    def name(self) -> str:  # type: ignore[override]
        """The name that `parse_pattern` reads."""
        return f"groups-{self.groups}-{self.sparsity:g}"

    def fits(self, outputs: Any, inputs: Any, kernel: Any) -> Any:
        """Returns whether the groups have equal size, at least two outputs each, and there are two inputs."""
        return (outputs % self.groups == 0) & (outputs >= 2 * self.groups) & (inputs * kernel * kernel >= 2)

    def _nonzeros(self, outputs: Any, inputs: Any, kernel: Any) -> Any:
        return outputs * kept(inputs * kernel * kernel, self.sparsity)

    def _stored_bytes(self, outputs: Any, inputs: Any, kernel: Any) -> Any:
        supports = (self.groups * inputs * kernel * kernel + 7) // 8
        members = (outputs * (self.groups - 1).bit_length() + 7) // 8
        return FP32_BYTES * self._nonzeros(outputs, inputs, kernel) + supports + members

    def _mask(self, scores: Tensor) -> Tensor:
        rows = scores.reshape(len(scores), -1).double()
        keep = int(kept(rows.shape[1], self.sparsity))
        supports = self._first_supports(rows, keep)
        for _ in range(REFINEMENTS):
            group = self._assigned(rows @ supports.T.double())
            summed = torch.zeros(self.groups, rows.shape[1], dtype=rows.dtype, device=rows.device)
            supports = row_mask(summed.index_add_(0, group, rows), keep)
        return supports[group].reshape(scores.shape)

    def _first_supports(self, rows: Tensor, keep: int) -> Tensor:
        """Returns (groups, inputs): supports of single outputs, each the one that the earlier supports serve worst."""
        own = row_mask(rows, keep)
        best = (rows * own).sum(1).clamp_min(torch.finfo(rows.dtype).tiny)
        chosen = [int(rows.sum(1).argmax())]
        while len(chosen) < self.groups:
            served = (rows @ own[chosen].T.double()).max(1).values / best
            served[chosen] = torch.inf
            chosen.append(int(served.argmin()))
        return own[chosen]

    def _assigned(self, gain: Tensor) -> Tensor:
        """Returns the group of each output (outputs,), groups of equal size, from the score kept in each group."""
        outputs = len(gain)
        room = outputs // self.groups
        group = torch.full((outputs,), self.groups - 1, device=gain.device)
        free = torch.ones(outputs, dtype=torch.bool, device=gain.device)
        for g in range(self.groups - 1):
            regret = gain[:, g] - gain[:, g + 1 :].max(1).values
            order = regret.masked_fill(~free, -torch.inf).argsort(descending=True, stable=True)[:room]
            group[order], free[order] = g, False
        return group


def arrangement(mask: Tensor) -> Tensor:
    """Returns the order of outputs (outputs,) that puts equal supports behind one another, by first appearance.

    With `order = arrangement(mask)`, `weight[order]` is what an engine multiplies group by group, and
    `out[:, order.argsort()]` brings the outputs back. Nothing else needs to be recorded.
    """
    rows = mask.reshape(len(mask), -1)
    _, label = torch.unique(rows, dim=0, return_inverse=True)
    first = torch.full((int(label.max()) + 1,), len(rows), device=mask.device)
    first = first.scatter_reduce(0, label, torch.arange(len(rows), device=mask.device), "amin")
    return first[label].argsort(stable=True)
