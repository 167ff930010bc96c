"""Objectives and limits: which metric, on which device, better in which direction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Direction = Literal["minimize", "maximize"]

COST_METRICS: Mapping[str, str] = {
    "macs": "MACs",
    "parameters": "values",
    "nonzeros": "values",
    "stored_bytes": "bytes",
    "activation_bytes": "bytes",
}
"""Exact costs of an architecture and their units; no device and no weights needed."""

DEVICE_METRICS: Mapping[str, str] = {
    "latency_ms": "ms",
    "peak_memory_bytes": "bytes",
    "energy_mj": "mJ",
}
"""What devices may measure, with units."""

QUALITY_METRICS: Mapping[str, str] = {"accuracy": "share", "loss": "nats", "fidelity": "share", "bleu": "BLEU"}
"""What an evaluation of a network on data gives, with units."""

MAXIMISED = frozenset({"accuracy", "fidelity", "bleu"})


@dataclass(frozen=True)
class Objective:
    """One axis of a search, or (with `limit` and `objective=False`) only a limit.

    Args:
        metric: `accuracy`, `latency_ms`, `stored_bytes`, ...
        device: name of the device that measures it; None for what does not depend on one.
        direction: which way is better.
        unit: of values as users mean them.
        limit: a value that must not be passed in the worse direction (at most when minimised, at least when
            maximised); None for no limit.
    """

    metric: str
    device: str | None = None
    direction: Direction = "minimize"
    unit: str = ""
    limit: float | None = None

    def __post_init__(self) -> None:
        if self.direction not in ("minimize", "maximize"):
            raise ValueError(f"direction must be 'minimize' or 'maximize', but got {self.direction!r}.")
        if self.limit is not None and not math.isfinite(self.limit):
            raise ValueError(f"limit of {self.name} must be finite, but got {self.limit}.")

    @property
    def name(self) -> str:
        """`metric` or `metric@device`."""
        return self.metric if self.device is None else f"{self.metric}@{self.device}"

    @property
    def sign(self) -> float:
        """+1 when minimised, -1 when maximised: loss = sign * value."""
        return 1.0 if self.direction == "minimize" else -1.0

    def loss(self, value: float) -> float:
        """Returns the value as a loss (smaller is better). NaN stays NaN."""
        return self.sign * value

    def violation(self, value: float) -> float:
        """Returns by how much the limit is passed, in the metric's unit; NaN when not known.

        At most 0 when the limit is kept: then it is minus the margin, which a surrogate can learn from.
        Without a limit it is 0.
        """
        if math.isnan(value):
            return math.nan
        return 0.0 if self.limit is None else self.sign * (value - self.limit)


def losses(objectives: Sequence[Objective], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns losses (n, m) of values (n, m) in the order of the objectives."""
    signs: NDArray[np.float64] = np.array([o.sign for o in objectives])
    return values * signs
