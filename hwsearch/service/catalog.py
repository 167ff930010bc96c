"""What a service knows: predictors, exact costs and stored trials of one search space, by metric and device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hwsearch.errors import UserError
from hwsearch.objectives import MAXIMISED, Direction
from predictors.base import FloatArray, Predictor
from predictors.training_range import TrainingRange
from search_spaces.space import Population, SearchSpace
from search_spaces.supernet import Supernet

Kind = Literal["predicted", "exact"]


class RequestError(UserError):
    """A request that cannot be answered, in one line; HTTP answers it with `status`."""

    status = 422


class TooLargeError(RequestError):
    """A request that asks for more than one request may."""

    status = 413


@dataclass(frozen=True)
class Entry:
    """One thing that can be answered for any architecture of the space.

    Args:
        metric, device, unit: of the values; device None for what does not depend on one.
        kind: `predicted`, or `exact` for costs that are computed.
        model: kind of the predictor.
        predictor: None for exact costs.
        range: where it was trained; None when its file does not say.
        n_rows: it was trained on.
        report: of its cross-validation, as stored.
        default: answered when a request names no metric.
    """

    metric: str
    device: str | None
    unit: str
    kind: Kind
    model: str
    predictor: Predictor | None = None
    range: TrainingRange | None = None
    n_rows: int = 0
    report: Mapping[str, Any] = field(default_factory=dict)
    default: bool = True

    @property
    def name(self) -> str:
        """`metric` or `metric@device`."""
        return self.metric if self.device is None else f"{self.metric}@{self.device}"


@dataclass(frozen=True)
class Trials:
    """Stored trials: canonical rows (n, g), values and deviations (n, m) of `names`, NaN where not measured."""

    rows: Population
    names: tuple[str, ...]
    values: FloatArray
    stds: FloatArray
    indices: tuple[int, ...]
    on_front: NDArray[np.bool_]

    @classmethod
    def empty(cls, n_genes: int) -> Trials:
        """Returns no trials."""
        none = np.zeros((0, 0))
        return cls(np.zeros((0, n_genes), np.uint8), (), none, none, (), np.zeros(0, np.bool_))

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Catalog:
    """Everything a service answers from, of one space.

    Args:
        space: of the architectures.
        entries: by name, in the order they were given.
        trials: of a run, if one was given.
        units: of every name that entries or trials have.
        directions: where a run says which way is better.
        supernet: on the meta device, for exact costs; None when no run was given.
    """

    space: SearchSpace
    entries: Mapping[str, Entry]
    trials: Trials
    units: Mapping[str, str] = field(default_factory=dict)
    directions: Mapping[str, Direction] = field(default_factory=dict)
    supernet: Supernet | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that has an entry or a measured value."""
        return tuple(dict.fromkeys([*self.entries, *self.trials.names]))

    @property
    def devices(self) -> tuple[str, ...]:
        """Every device that something is known about."""
        found = (name.partition("@")[2] for name in self.names)
        return tuple(dict.fromkeys(d for d in found if d))

    def direction(self, name: str) -> Direction:
        """Returns which way of a metric is better."""
        return self.directions.get(name, "maximize" if name.split("@")[0] in MAXIMISED else "minimize")

    def resolve(self, metric: str, device: str | None = None, *, among: Iterable[str] | None = None) -> str:
        """Returns the one name that `metric`, `metric@device` or the two together mean.

        Raises:
            RequestError: none, or more than one device has it.
        """
        if device is not None:
            self.check_device(device)
        known = list(self.names if among is None else among)
        wanted = metric if device is None or "@" in metric else f"{metric}@{device}"
        found = [n for n in known if n == wanted] or [n for n in known if device is None and n.split("@")[0] == metric]
        if len(found) != 1:
            problem = "is measured on more than one device" if found else "is not known"
            raise RequestError(f"the metric must be one of {known}, but {_short(wanted)} {problem}.")
        return found[0]

    def check_device(self, device: str) -> None:
        """Raises RequestError for a device that nothing is known about."""
        if device not in self.devices:
            raise RequestError(f"the device must be one of {list(self.devices)}, but got {_short(device)}.")

    def select(self, metrics: Sequence[str] | None, devices: Sequence[str] | None) -> list[Entry]:
        """Returns the entries that a request means; by default every predictor and objective.

        Args:
            metrics: names, with or without device.
            devices: only what depends on one of these.

        Raises:
            RequestError: one of them is not known, or nothing is left.
        """
        for device in devices or ():
            self.check_device(device)
        for metric in metrics or ():
            if not any(metric in (e.name, e.metric) for e in self.entries.values()):
                raise RequestError(f"the metric must be one of {list(self.entries)}, but got {_short(metric)}.")
        chosen = [
            e
            for e in self.entries.values()
            if (e.default if metrics is None else e.name in metrics or e.metric in metrics)
            and (devices is None or e.device in devices)
        ]
        if not chosen:
            raise RequestError(
                f"metrics and devices must leave something of {list(self.entries)}, but together they leave nothing."
            )
        return chosen


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
