"""Optimal brain surgeon for whole units: which channels and heads go first if the others make up for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from search_spaces.from_model.family import FromModel

DAMPING = 0.01
"""Share of the mean diagonal that is added to a Gram matrix before it is inverted (SparseGPT's choice)."""
STEPS = 48
"""At every step, one unit in as many of those that are left goes."""


@dataclass
class _Reader:
    """A layer that reads the units of a group.

    Args:
        weight: (outputs, columns). inverse: of its Gram matrix, (columns, columns).
        columns: of every unit, (units, columns per unit).
        scale: what the whole layer puts out.
    """

    weight: Tensor
    inverse: Tensor
    columns: Tensor
    scale: float

    def scores(self, left: Tensor) -> Tensor:
        """Returns the error when each of these units goes alone and the others make up for it, (units,)."""
        at = self.columns[left]
        blocks = self.inverse[at[:, :, None], at[:, None, :]]  # (units, c, c)
        w = self.weight[:, at].transpose(0, 1)  # (units, outputs, c)
        lost: Tensor = (torch.linalg.solve(blocks, w.transpose(1, 2)).transpose(1, 2) * w).sum((1, 2)) / self.scale
        return lost

    def remove(self, units: Tensor) -> None:
        """Removes units; the weights of the others change as the least-squares solution does."""
        at = self.columns[units].flatten()
        gone = torch.linalg.solve(self.inverse[at][:, at], self.inverse[at])  # (c, columns)
        self.weight = self.weight - self.weight[:, at] @ gone
        self.inverse = self.inverse - self.inverse[:, at] @ gone


def removal_order(family: FromModel, weights: Mapping[str, Tensor], grams: Mapping[str, Tensor]) -> NDArray[np.float64]:
    """Returns when each unit goes, (entries,): 1 for the first of its group; 0 for units that no such layer reads.

    Removing columns c of a layer costs tr(W_c (H^-1_cc)^-1 W_c^T) and changes the others by -W_c (H^-1_cc)^-1 H^-1_c
    (Hassibi and Stork 1993, eq. 5; Frantar and Alistarh 2022, for blocks). Several units go per step, by scores of
    that step. Units that every choice keeps are ordered by their last score.

    Args:
        family: whose units.
        weights: layer -> (outputs, inputs, ...).
        grams: layer -> sum of x x^T, (inputs * kernel, same).
    """
    found = np.zeros(len(family.units.of))
    for group in family.groups:
        number = {int(unit): i for i, unit in enumerate(group.units)}
        readers = [r for name in grams if (r := _reader(family, name, weights[name], grams[name], number)) is not None]
        if not readers:
            continue
        left = torch.arange(len(group.units))
        place = 1.0
        while len(left) > group.counts[0]:
            scores = torch.stack([r.scores(left) for r in readers]).sum(0)
            count = min(max(1, len(left) // STEPS), len(left) - group.counts[0])
            gone = left[scores.argsort(stable=True)[:count]]
            for unit in gone.tolist():
                found[group.units[unit]] = place
                place += 1
            for reader in readers:
                reader.remove(gone)
            left = left[~torch.isin(left, gone)]
        scores = torch.stack([r.scores(left) for r in readers]).sum(0)
        for unit in left[scores.argsort(stable=True)].tolist():
            found[group.units[unit]] = place
            place += 1
    return found


def _reader(family: FromModel, name: str, weight: Tensor, gram: Tensor, number: Mapping[int, int]) -> _Reader | None:
    """Returns a layer as a reader of a group's units, if it reads each of them at as many columns as the others."""
    label = family.state.parameters[name][1]
    if label is None:
        return None
    inside = weight[0, 0].numel()
    columns: list[list[int]] = [[] for _ in number]
    for i, unit in enumerate(family.units.of[label]):
        if int(unit) in number:
            columns[number[int(unit)]] += range(i * inside, (i + 1) * inside)
    if len({len(c) for c in columns}) != 1 or not columns[0]:
        return None
    matrix = weight.flatten(1)
    damp = DAMPING * gram.diagonal().mean() + 1e-12
    damped = gram + damp * torch.eye(len(gram), dtype=gram.dtype)
    scale = float(((matrix @ gram) * matrix).sum()) + 1e-12
    return _Reader(matrix, torch.linalg.inv(damped), torch.tensor(columns), scale)
