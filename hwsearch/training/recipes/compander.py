"""Weight compander: the network uses a saturating function of the trained values, which pulls weights together."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from hwsearch.training.recipes.base import Recipe, Session


def compand(values: Tensor, bound: float, slope: float) -> Tensor:
    """Returns bound * arctan(slope * v / bound): slope at zero, saturating at +- bound * pi / 2."""
    return bound * torch.atan(values * (slope / bound))


def expand(weights: Tensor, bound: float, slope: float) -> Tensor:
    """Returns the values whose `compand` is the given weights; these must be below bound * pi / 2 in magnitude."""
    return torch.tan(weights / bound) * (bound / slope)


class WeightCompander(Recipe):
    """Trains v and uses w = bound * arctan(slope v / bound); at the end the parameters hold w.

    Zero stays zero, so masks are kept: it combines with recipes that own masks. Source: Weight Compander (2023);
    it is the saturation that regularises.

    Args:
        bound: weights stay below bound * pi / 2.
        slope: derivative at zero.
    """

    name = "compander"
    owns: ClassVar[frozenset[str]] = frozenset({"values"})

    def __init__(self, *, bound: float = 0.5, slope: float = 1.0) -> None:
        if bound <= 0.0 or slope <= 0.0:
            raise ValueError(f"bound and slope must be positive, but got {bound} and {slope}.")
        self.bound, self.slope = bound, slope

    @torch.no_grad()
    def start(self, session: Session) -> None:
        """Sets v so that training starts from the given weights, cut to 99 % of the bound."""
        super().start(session)
        most = 0.99 * self.bound * torch.pi / 2
        for parameter in session.targets.values():
            parameter.copy_(expand(parameter.clamp(-most, most), self.bound, self.slope))

    def weights(self, weights: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Returns the companded weights."""
        targets = self.session.targets
        return {n: compand(w, self.bound, self.slope) if n in targets else w for n, w in weights.items()}

    @torch.no_grad()
    def finish(self) -> None:
        """Writes the companded weights into the parameters."""
        for parameter in self.session.targets.values():
            parameter.copy_(compand(parameter, self.bound, self.slope))
