"""Deep ensemble: small networks that answer a mean and a variance, trained side by side in one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from predictors.base import FloatArray, LayerFunction, Target
from predictors.features import Features
from predictors.model import FeatureModel
from predictors.regression import HeldOut, Regressor, Sample, fold_of, precision_weights
from search_spaces.space import SearchSpace


class EnsembleRegressor(Regressor):
    """Networks of two hidden layers that minimise the normal's negative log likelihood (Lakshminarayanan et al. 2017).

    Each member leaves one fold out and answers for it; the ensemble is the mixture of the members.

    Args:
        members: number of networks and folds.
        width: hidden nodes.
        steps: of AdamW on all rows, with a cosine schedule.
        decay: weight decay.
        seed: of the initial weights.
    """

    kind = "ensemble"

    def __init__(
        self, *, members: int = 5, width: int = 64, steps: int = 400, decay: float = 0.03, seed: int = 0
    ) -> None:
        if members < 2 or width < 1 or steps < 1:
            raise ValueError(f"members must be at least 2, but got {members}; width and steps at least 1.")
        self.members, self.width, self.steps, self.decay, self.seed = members, width, steps, decay, seed
        self._arrays: dict[str, NDArray[Any]] = {}

    def fit(self, sample: Sample) -> EnsembleRegressor:
        """Returns self, fitted."""
        fold = fold_of(sample.group, self.members)
        centre = sample.x.mean(axis=0)
        scale = max(float(np.sqrt(sample.x.var(axis=0).sum())), 1e-12) / np.sqrt(8.0)
        level, spread = float(sample.y.mean()), max(float(sample.y.std()), 1e-300)
        x = torch.from_numpy((sample.x - centre) / scale).float()
        y = torch.from_numpy((sample.y - level) / spread).float()
        weight = torch.from_numpy(precision_weights(sample.stds, sample.y) * sample.weight).float()
        # Member i sees all folds but i; with fewer folds than members some see all.
        seen = torch.from_numpy(fold[None] != np.arange(self.members)[:, None])
        seen[seen.sum(1) < 2] = True
        share = weight * seen
        share = share / share.sum(1, keepdim=True)
        generator = torch.Generator().manual_seed(self.seed)

        def layer(inputs: int, outputs: int) -> list[Tensor]:
            start = torch.randn(self.members, inputs, outputs, generator=generator) / inputs**0.5
            return [start.requires_grad_(), torch.zeros(self.members, 1, outputs).requires_grad_()]

        d = x.shape[1]
        parameters = [*layer(d, self.width), *layer(self.width, self.width), *layer(self.width, 2)]
        optimizer = torch.optim.AdamW(parameters, lr=0.01, weight_decay=self.decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        for _ in range(self.steps):
            mean, log_variance = _forward(x, parameters)
            # The mean is learned by half the squared error first: a variance that grows early hides the signal.
            loss = 0.5 * (log_variance + (y - mean) ** 2 / log_variance.exp()) + 0.5 * (y - mean) ** 2
            optimizer.zero_grad()
            (share * loss).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            mean, log_variance = _forward(x, parameters)
        row, member = np.arange(len(sample)), np.minimum(fold, self.members - 1)
        self._arrays = {
            **{f"parameter.{i}": p.detach().numpy() for i, p in enumerate(parameters)},
            "centre": centre,
            "scalars": np.array([scale, level, spread]),
            "held_mean": level + spread * mean.numpy().astype(np.float64)[member, row],
            "held_std": spread * np.exp(0.5 * log_variance.numpy().astype(np.float64)[member, row]),
        }
        return self

    def predict(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Returns mean and deviation of the members' mixture, each (n,)."""
        scale, level, spread = (float(v) for v in self._arrays["scalars"])
        parameters = [torch.from_numpy(self._arrays[f"parameter.{i}"]) for i in range(6)]
        with torch.no_grad():
            inputs = torch.from_numpy((x - self._arrays["centre"]) / scale).float()
            means, log_variances = (v.numpy().astype(np.float64) for v in _forward(inputs, parameters))
        mean = means.mean(axis=0)
        variance = np.exp(log_variances).mean(axis=0) + means.var(axis=0)
        return level + spread * mean, spread * np.sqrt(variance)

    def held_out(self) -> HeldOut:
        """Returns what each member says of the fold it has not seen."""
        return HeldOut(self._arrays["held_mean"], self._arrays["held_std"])

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Returns weights and scales."""
        return dict(self._arrays)

    def settings(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            "members": self.members,
            "width": self.width,
            "steps": self.steps,
            "decay": self.decay,
            "seed": self.seed,
        }

    @classmethod
    def restore(cls, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]) -> EnsembleRegressor:
        """Returns the fitted regressor."""
        names = ("members", "width", "steps", "decay", "seed")
        model = cls(**{name: settings[name] for name in names})
        keys = ("centre", "scalars", "held_mean", "held_std", *(f"parameter.{i}" for i in range(6)))
        model._arrays = {name: arrays[name] for name in keys}
        return model


def _forward(x: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Returns mean and log variance, each (members, n), of inputs (n, d)."""
    w1, b1, w2, b2, w3, b3 = parameters
    h = torch.nn.functional.silu(x @ w1 + b1)  # (members, n, width)
    h = h + torch.nn.functional.silu(h @ w2 + b2)
    out = h @ w3 + b3
    return out[..., 0], out[..., 1].clamp(-9, 3)


class DeepEnsemble(FeatureModel):
    """An ensemble of small networks as a predictor; see `EnsembleRegressor`.

    Args:
        space: of the populations.
        members, steps, seed: see `EnsembleRegressor`.
        sets, target, layers, batch, features: see `FeatureModel`.
    """

    kind = "ensemble"
    regressor_class = EnsembleRegressor

    def __init__(
        self,
        space: SearchSpace,
        *,
        members: int = 5,
        steps: int = 400,
        seed: int = 0,
        sets: Sequence[str] | None = None,
        target: Target = "raw",
        layers: LayerFunction | None = None,
        batch: int = 1,
        features: Features | None = None,
    ) -> None:
        options = {"members": members, "steps": steps, "seed": seed}
        super().__init__(
            space, sets=sets, target=target, layers=layers, batch=batch, features=features, options=options
        )
