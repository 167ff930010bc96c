"""Width groups: the units that one gene decides over, and what stays fixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import gcd

import numpy as np
from numpy.typing import NDArray

from search_spaces.from_model.units import Units
from search_spaces.from_model.walk import Walk


@dataclass(frozen=True)
class WidthGroup:
    """Units of one width.

    Args:
        gene: its name: path of the first layer and `width`, `heads` or `groups`.
        units: unit numbers, the most important first, (units,).
        per_unit: channels of the first layer that one unit holds.
        counts: choices of how many units stay, ascending; the last one is all.
        producers: layers that make this width.
    """

    gene: str
    units: NDArray[np.int64]
    per_unit: int
    counts: tuple[int, ...]
    producers: tuple[str, ...]

    def ordered(self, scores: NDArray[np.float64]) -> WidthGroup:
        """Returns the group with its units by descending score (units of the whole model,); ties by position."""
        return replace(self, units=self.units[np.argsort(-scores[self.units], kind="stable")])


@dataclass(frozen=True)
class Fixed:
    """A width that stays, or a part of one.

    Args:
        layer: path. channels: that stay. of: all of them. reason: why.
    """

    layer: str
    channels: int
    of: int
    reason: str


def width_groups(
    state: Walk, units: Units, *, ratios: Sequence[float], multiple: int
) -> tuple[list[WidthGroup], list[Fixed]]:
    """Returns the groups in graph order, and the widths that stay fixed.

    Args:
        state: labels.
        units: of these labels.
        ratios: of units that may stay, in (0, 1].
        multiple: that kept channels are rounded to, where that leaves a choice.
    """
    fixed: list[Fixed] = []
    owner: dict[int, int] = {}  # unit -> number of its group
    members: dict[int, list[int]] = {}  # group -> producers
    free: list[NDArray[np.int64]] = []
    for i, producer in enumerate(state.producers):
        own = units.of[producer.label]
        pinned = np.array([int(unit) in units.reasons for unit in own])
        if pinned.any():
            first = int(own[int(np.flatnonzero(pinned)[0])])
            fixed.append(Fixed(producer.name, int(pinned.sum()), len(own), units.reasons[first]))
        free.append(own[~pinned])
        numbers = {owner[int(unit)] for unit in free[i] if int(unit) in owner}
        if not len(free[i]):
            continue
        number = min(numbers, default=i)
        together = sorted({i, *(p for n in numbers for p in members.pop(n, []))})
        members[number] = together
        for p in together:
            owner.update(dict.fromkeys(map(int, free[p]), number))
    heads = {int(u) for label in state.heads for u in np.unique(units.of[label])}
    groups: list[WidthGroup] = []
    taken: set[str] = set()
    for number in sorted(members):
        every = np.unique(np.concatenate([free[p] for p in members[number]]))
        source = state.producers[members[number][0]]
        held = [int((units.of[state.producers[p].label][:, None] == every).sum(0).max()) for p in members[number][:1]]
        counts = _counts(len(every), held[0], ratios, multiple)
        if len(counts) < 2:
            fixed.append(Fixed(source.name, len(source.label), len(source.label), "has no smaller choice"))
            continue
        kind = "width" if held[0] == 1 else "heads" if heads.issuperset(map(int, every)) else "groups"
        gene, again = f"{source.name}.{kind}", 2
        while gene in taken:
            gene, again = f"{source.name}.{kind}_{again}", again + 1
        taken.add(gene)
        producers = tuple(dict.fromkeys(state.producers[p].name for p in members[number]))
        groups.append(WidthGroup(gene, every, held[0], counts, producers))
    return groups, list(dict.fromkeys(fixed))


def _counts(units: int, per_unit: int, ratios: Sequence[float], multiple: int) -> tuple[int, ...]:
    """Returns how many units may stay: ratios of all, rounded so that channels are a multiple, at least one step."""
    step = multiple // gcd(multiple, per_unit)
    if step >= units:
        step = 1
    counts = {units}
    for ratio in ratios:
        counts.add(min(units, max(step, int(ratio * units / step + 0.5) * step)))
    return tuple(sorted(counts))


def energies(
    state: Walk, units: Units, weights: Mapping[str, NDArray[np.float64]], *, dims: tuple[int, ...] | None = None
) -> NDArray[np.float64]:
    """Returns the importance of every unit from scores of single weights, (entries,).

    For every axis of every weight with at least two dimensions, the scores are summed per position and divided by their
    mean, so that a large tensor does not outvote a small one; a unit's importance is the sum over all its positions.

    Args:
        state: labels.
        units: of them.
        weights: tensor -> non-negative scores of its shape.
        dims: of the weights that count: 0 for what makes a unit, 1 for what reads it; None for all.
    """
    total = np.zeros(len(units.of))
    for name, scores in weights.items():
        axes = state.parameters.get(name, ())
        if scores.ndim < 2:
            continue
        for dim, label in enumerate(axes):
            if label is None or (dims is not None and dim not in dims):
                continue
            own = scores.sum(axis=tuple(d for d in range(scores.ndim) if d != dim))
            mean = float(own.mean())
            if mean > 0:
                np.add.at(total, units.of[label], own / mean)
    return total
