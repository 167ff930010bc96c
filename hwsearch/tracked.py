"""Tracked: objectives and limits of a configuration as objects, and whether anything measures them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from hwsearch.config import RunConfig
from hwsearch.objectives import COST_METRICS, DEVICE_METRICS, QUALITY_METRICS, Objective
from hwsearch.problems import nearest


def is_quality(objective: Objective, function: str | None) -> bool:
    """Whether an evaluation of the network gives this metric: a known one, or any other of the user's function."""
    other = objective.device is None and objective.metric not in {*COST_METRICS, *DEVICE_METRICS}
    return objective.metric in QUALITY_METRICS or (function is not None and other)


class Tracked:
    """The objectives and limits of a configuration.

    Args:
        config: says them.
        left_out: paths of parts that are bad anyway and only hold a placeholder.

    Attributes:
        problems: what is wrong with single ones.
        by_path: `objectives.0` -> the objective, where nothing is wrong.
        objectives: what is optimised, in the config's order.
        limits: everything with a limit: objectives first, then what is only limited.
    """

    def __init__(self, config: RunConfig, *, left_out: Collection[str] = ()) -> None:
        self.problems: list[str] = []
        self._function = config.evaluation.function
        self.by_path: dict[str, Objective] = {}
        for where, sections in (("objectives", config.objectives), ("limits", config.limits)):
            for i, section in enumerate(sections):
                path = f"{where}.{i}"
                if path in left_out or where in left_out:
                    continue
                try:
                    objective = section.objective()
                except ValueError as error:
                    self.problems.append(f"{path}: {error}")
                    continue
                if where == "limits" and objective.limit is None:
                    self.problems.append(f"{path}: {objective.name} must give min or max.")
                self.by_path[path] = objective
        self.objectives = tuple(o for path, o in self.by_path.items() if path.startswith("objectives"))
        limits = tuple(o for path, o in self.by_path.items() if path.startswith("limits"))
        self.limits = tuple(o for o in self.objectives if o.limit is not None) + limits

    @property
    def needs_network(self) -> bool:
        """Whether one of them needs a network that was trained."""
        return any(is_quality(o, self._function) for o in self.by_path.values())

    def problems_of_places(
        self, config: RunConfig, measured: Mapping[str, Sequence[str]], *, left_out: Collection[str] = ()
    ) -> list[str]:
        """Returns what nothing and nobody measures, and what occurs twice.

        Args:
            config: names the devices.
            measured: device -> metrics, for the devices whose description is all right.
            left_out: paths of bad parts, about which nothing more is said.
        """
        problems = []
        seen: set[str] = set()
        known = [*COST_METRICS, *DEVICE_METRICS, *QUALITY_METRICS]
        for path, objective in self.by_path.items():
            metric, device = objective.metric, objective.device
            if path.startswith("objectives"):
                if objective.name in seen:
                    problems.append(f"{path}: {objective.name} must occur once.")
                seen.add(objective.name)
            if device is None:
                if metric in DEVICE_METRICS:
                    names = list(config.devices) or ["DEVICE"]
                    problems.append(f"{path}: {metric} must name its device, as in {metric}@{names[0]}.")
                elif metric not in known and config.evaluation.function is None:
                    problems.append(
                        f"{path}: the metric must be one of {known}, but got {metric!r}{nearest(metric, known)}."
                    )
            elif device not in config.devices:
                if not {"devices", f"devices.{device}"}.intersection(left_out):
                    problems.append(
                        f"{path}: {objective.name} must name a device of this config ({sorted(config.devices)}), "
                        f"but got {device!r}{nearest(device, config.devices)}."
                    )
            elif device in measured and metric not in measured[device]:
                problems.append(
                    f"{path}: {objective.name} must be something that the device measures "
                    f"({list(measured[device])}), but got {metric!r}{nearest(metric, measured[device])}."
                )
        return problems
