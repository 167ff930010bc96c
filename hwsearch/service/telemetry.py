"""Counters of a replica, their sum over replicas, and Prometheus' text format."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Labels = tuple[tuple[str, str], ...]

HELP = {
    "hwsearch_requests_total": ("counter", "Requests answered, by path, method and status."),
    "hwsearch_predictions_total": ("counter", "Predicted values, by metric."),
    "hwsearch_request_seconds": ("histogram", "Seconds from the first byte of a request to the last of its answer."),
    "hwsearch_replicas": ("gauge", "Replicas that have answered since the service was started."),
}


@dataclass
class Snapshot:
    """Everything a replica has counted: (name, labels) -> value. Plain data, to be sent and summed."""

    values: dict[tuple[str, Labels], float] = field(default_factory=dict)


class Telemetry:
    """Counters of one process; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[tuple[str, Labels], float] = {}

    def add(self, name: str, labels: Mapping[str, str], value: float = 1.0) -> None:
        """Adds to a counter."""
        key = (name, tuple(sorted(labels.items())))
        with self._lock:
            self._values[key] = self._values.get(key, 0.0) + value

    def observe(self, name: str, labels: Mapping[str, str], seconds: float) -> None:
        """Adds one observation to a histogram."""
        place = bisect_left(BUCKETS_S, seconds)
        edge = "+Inf" if place == len(BUCKETS_S) else repr(BUCKETS_S[place])
        self.add(f"{name}_bucket", {**labels, "le": edge})
        self.add(f"{name}_sum", labels, seconds)
        self.add(f"{name}_count", labels)

    def snapshot(self) -> Snapshot:
        """Returns a copy of everything counted so far."""
        with self._lock:
            return Snapshot(dict(self._values))


def exposition(snapshots: Iterable[Snapshot]) -> str:
    """Returns the sum of snapshots in Prometheus' text format, version 0.0.4."""
    snapshots = list(snapshots)
    total: dict[tuple[str, Labels], float] = {("hwsearch_replicas", ()): float(len(snapshots))}
    for snapshot in snapshots:
        for key, value in snapshot.values.items():
            total[key] = total.get(key, 0.0) + value
    lines = []
    for family, (kind, text) in HELP.items():
        lines += [f"# HELP {family} {text}", f"# TYPE {family} {kind}"]
        if kind == "histogram":
            lines += _histogram(family, total)
        else:
            lines += [_line(family, labels, v) for (name, labels), v in sorted(total.items()) if name == family]
    return "\n".join(lines) + "\n"


def _histogram(family: str, total: Mapping[tuple[str, Labels], float]) -> list[str]:
    """Returns the lines of a histogram; Prometheus' buckets are cumulative, ours are not."""
    lines = []
    for (name, labels), count in sorted(total.items()):
        if name != f"{family}_count":
            continue
        running = 0.0
        for edge in [*map(repr, BUCKETS_S), "+Inf"]:
            with_edge = tuple(sorted([*labels, ("le", edge)]))
            running += total.get((f"{family}_bucket", with_edge), 0.0)
            lines.append(_line(f"{family}_bucket", with_edge, running))
        lines.append(_line(f"{family}_sum", labels, total[f"{family}_sum", labels]))
        lines.append(_line(name, labels, count))
    return lines


def _line(name: str, labels: Labels, value: float) -> str:
    inside = ",".join(f'{key}="{_escape(text)}"' for key, text in labels)
    return f"{name}{{{inside}}} {value:.17g}" if inside else f"{name} {value:.17g}"


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
