"""WGSEF: whole groups of weights go to zero by the proximal step of an envelope whose level is set beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hwsearch.training.recipes.base import Recipe, Session, zero_where

Groups = Literal["outputs", "inputs"]


def envelope(norms: NDArray[np.float64], level: int) -> float:
    """Returns min over u in [0, 1]^J, sum u <= level, of 1/2 sum_j x_j^2 / u_j, for group norms x (J,).

    With u_j = clip(eta |x_j|, 0, 1): the limit of `shares` for step 0. Source: WGSEF (weights 1).
    """
    x = np.abs(np.asarray(norms, dtype=np.float64))
    u = shares(x, level, 0.0)
    inside = x > 0
    return 0.5 * float((x[inside] ** 2 / u[inside]).sum())


def shares(norms: NDArray[np.float64], level: int, step: float) -> NDArray[np.float64]:
    """Returns u_j = clip(eta |x_j| - step, 0, 1) with eta >= 0 such that sum u = level, (J,).

    The sum grows along eta in straight pieces; their ends are step / |x_j| and (1 + step) / |x_j|. The search
    halves the set of ends by their median and keeps sums for the groups that it has decided, so it takes expected
    time linear in J. Groups of norm 0 have u = 0; if the others are at most `level`, they have u = 1.

    Args:
        norms: group norms x (J,).
        level: k, between 1 and J.
        step: l, at least 0.
    """
    x = np.abs(np.asarray(norms, dtype=np.float64))
    if not 1 <= level <= len(x):
        raise ValueError(f"level must be between 1 and {len(x)} groups, but got {level}.")
    if step < 0.0:
        raise ValueError(f"step must be at least 0, but got {step}.")
    positive = x[x > 0]
    if len(positive) <= level:
        return (x > 0).astype(np.float64)
    eta = _eta(positive, level, step)
    return np.clip(eta * x - step, 0.0, 1.0)


def _eta(x: NDArray[np.float64], level: int, step: float) -> float:
    low, high = 0.0, (1.0 + step) / float(x.min())
    slope, offset = 0.0, 0.0  # of the groups that are on one straight piece in all of [low, high]
    points = np.concatenate([step / x, (1.0 + step) / x])
    while len(points):
        middle = float(np.partition(points, len(points) // 2)[len(points) // 2])
        total = slope * middle + offset + float(np.clip(middle * x - step, 0.0, 1.0).sum())
        low, high = (low, middle) if total >= level else (middle, high)
        starts, ends = step / x, (1.0 + step) / x
        full, rising = ends <= low, (starts <= low) & (ends >= high) & (ends > low)
        offset += float(full.sum()) - step * float(rising.sum())
        slope += float(x[rising].sum())
        x = x[~(full | rising | (starts >= high))]
        points = points[(points > low) & (points < high)]
    # No piece begins or ends inside (low, high): the sum is a straight line there.
    return (level - offset) / slope if slope > 0 else high


def prox_scale(norms: NDArray[np.float64], level: int, step: float) -> NDArray[np.float64]:
    """Returns the factor u_j / (step + u_j) by which the proximal step scales each group, (J,).

    It solves min over z of 1/2 sum (z_j - x_j)^2 + step * envelope(z, level). Source: WGSEF, proximal operator.
    """
    u = shares(norms, level, step)
    return np.divide(u, step + u, out=np.zeros_like(u), where=u > 0)


class GroupEnvelope(Recipe):
    """Structured sparsity at a preset level: after every step each layer's groups are scaled by the proximal step.

    The `level` strongest groups of a layer (k = groups kept) end unscaled up to 1 / (1 + step), the others at
    exactly zero. From `end` on, the zero groups are fixed and the rest recovers without the penalty.

    Args:
        sparsity: share of each layer's groups that become zero.
        groups: `outputs` (filters, rows) or `inputs` (channels, columns).
        strength: the proximal step l is the learning rate times this.
        begin: share of the training at which it begins.
        end: share at which the zero groups are fixed.
    """

    name = "group_envelope"
    owns: ClassVar[frozenset[str]] = frozenset({"masks"})

    def __init__(
        self,
        *,
        sparsity: float,
        groups: Groups = "outputs",
        strength: float = 1.0,
        begin: float = 0.0,
        end: float = 0.7,
    ) -> None:
        if not 0.0 <= sparsity < 1.0:
            raise ValueError(f"sparsity must be in [0, 1), but got {sparsity}.")
        if strength <= 0.0:
            raise ValueError(f"strength must be positive, but got {strength}.")
        if not 0.0 <= begin < end <= 1.0:
            raise ValueError(f"the envelope must have 0 <= begin < end <= 1, but got {begin} and {end}.")
        self.sparsity, self.dim = sparsity, {"outputs": 0, "inputs": 1}[groups]
        self.strength, self.begin, self.end = strength, begin, end
        self._dead: dict[str, Tensor] = {}

    def level(self, weight: Tensor) -> int:
        """Returns k of a layer: groups that stay."""
        count = weight.shape[self.dim]
        return max(1, count - int(count * self.sparsity + 0.5))

    def start(self, session: Session) -> None:
        """Begins with all groups alive."""
        super().start(session)
        self._dead = {
            name: torch.zeros(w.shape[self.dim], dtype=torch.bool, device=w.device)
            for name, w in session.targets.items()
        }

    def _rows(self, weight: Tensor) -> Tensor:
        moved = weight.movedim(self.dim, 0)
        return moved.reshape(len(moved), -1)

    def _spread(self, per_group: Tensor, weight: Tensor) -> Tensor:
        shape = [1] * weight.dim()
        shape[self.dim] = -1
        return per_group.view(shape).expand_as(weight)

    def on_gradients(self, step: int) -> None:
        """Keeps fixed groups at zero."""
        for name, dead in self._dead.items():
            parameter = self.session.targets[name]
            if parameter.grad is not None and self.session.done(step) >= self.end:
                parameter.grad.masked_fill_(self._spread(dead, parameter), 0.0)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Takes the proximal step; at `end`, fixes the weakest groups."""
        done, after = self.session.done(step), self.session.done(step + 1)
        if done < self.begin or done >= self.end:
            return
        rate = float(self.session.optimizer.param_groups[0]["lr"])
        for name, weight in self.session.targets.items():
            norms = torch.linalg.vector_norm(self._rows(weight), dim=1).double().cpu().numpy()
            scale = torch.from_numpy(prox_scale(norms, self.level(weight), rate * self.strength))
            weight.mul_(self._spread(scale.to(weight), weight))
            if after >= self.end:
                self._fix(name, weight)

    def _fix(self, name: str, weight: Tensor) -> None:
        energy = torch.linalg.vector_norm(self._rows(weight), dim=1)
        alive = energy.argsort(descending=True, stable=True)[: self.level(weight)]
        dead = torch.ones_like(self._dead[name])
        dead[alive] = False
        self._dead[name] = dead
        zero_where(self.session, name, self._spread(dead, weight))

    def state(self) -> dict[str, Tensor]:
        """Returns which groups are fixed at zero."""
        return dict(self._dead)

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over the fixed groups."""
        self._dead = {name: tensor.to(self.session.targets[name].device) for name, tensor in tensors.items()}

    @torch.no_grad()
    def finish(self) -> None:
        """Makes fixed groups zero once more; a training that stopped before `end` is fixed now."""
        for name, weight in self.session.targets.items():
            if self._dead[name].any():
                zero_where(self.session, name, self._spread(self._dead[name], weight))
            else:
                self._fix(name, weight)
