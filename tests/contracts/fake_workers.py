"""Workers that note when they work, fail or die on demand; light, so that a Ray worker comes up quickly."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwsearch.distribution.jobs import EvaluateJob, MeasureJob, MeasureResult
from hwsearch.results import Artifact, Evaluation, Measurement


@dataclass(frozen=True)
class FakeFactory:
    """Makes fakes.

    Args:
        folder: where events and attempts are noted.
        devices: for which an evaluation makes artifacts.
        seconds: how long an evaluation or a measuring takes.
        slow: index -> seconds of its evaluation instead.
        kills: index -> how often evaluating it kills its process.
        lane_kills: index -> the same for measuring it.
        fails: indices whose evaluation raises.
        lane_fails: indices whose measuring raises.
        unmade: what cannot be made: devices, or "accuracy".
    """

    folder: str
    devices: tuple[str, ...] = ()
    seconds: float = 0.0
    slow: Mapping[int, float] = field(default_factory=dict)
    kills: Mapping[int, int] = field(default_factory=dict)
    lane_kills: Mapping[int, int] = field(default_factory=dict)
    fails: frozenset[int] = frozenset()
    lane_fails: frozenset[int] = frozenset()
    unmade: frozenset[str] = frozenset()

    def accuracy(self, weights: dict[str, NDArray[Any]] | None) -> FakeAccuracy:
        if "accuracy" in self.unmade:
            raise FileNotFoundError("the data are not here")
        return FakeAccuracy(self, weights)

    def lane(self, device: str) -> FakeLane:
        if device in self.unmade:
            raise RuntimeError(f"nobody answers at {device}")
        return FakeLane(self, device)

    def attempt(self, what: str, index: int) -> int:
        """Counts across processes how often something was tried; the first time is 1."""
        path = Path(self.folder) / f"{what}-{index}"
        with path.open("ab") as file:
            file.write(b".")
        return path.stat().st_size

    def note(self, what: str, indices: list[int], begin: float) -> None:
        event = {"what": what, "indices": indices, "begin": begin, "end": time.monotonic(), "pid": os.getpid()}
        with (Path(self.folder) / "events").open("ab") as file:
            file.write((json.dumps(event) + "\n").encode())

    def events(self) -> list[dict[str, Any]]:
        path = Path(self.folder) / "events"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def artifact(index: int) -> Artifact:
    return Artifact("costs", "fp32", {"costs.json": str(index).encode()}, "costs.json")


@dataclass
class FakeAccuracy:
    factory: FakeFactory
    weights: dict[str, NDArray[Any]] | None

    def evaluate(self, job: EvaluateJob) -> tuple[Evaluation, dict[str, Artifact]]:
        begin = time.monotonic()
        if self.factory.attempt("evaluate", job.index) <= self.factory.kills.get(job.index, 0):
            os.kill(os.getpid(), signal.SIGKILL)
        if job.index in self.factory.fails:
            raise ValueError(f"network {job.index}\nis ill")
        time.sleep(self.factory.slow.get(job.index, self.factory.seconds))
        metrics = {"accuracy": float(job.index), "genes": float(np.sum(job.row))}
        if self.weights is not None:
            metrics["weights"] = float(sum(array.sum() for array in self.weights.values()))
        self.factory.note("accuracy", [job.index], begin)
        return Evaluation(metrics, seconds=0.0), {device: artifact(job.index) for device in self.factory.devices}


@dataclass
class FakeLane:
    factory: FakeFactory
    device: str

    def measure(self, job: MeasureJob) -> list[MeasureResult]:
        begin = time.monotonic()
        for index in job.indices:
            if self.factory.attempt(self.device, index) <= self.factory.lane_kills.get(index, 0):
                os.kill(os.getpid(), signal.SIGKILL)
        if self.factory.lane_fails.intersection(job.indices):
            raise RuntimeError(f"{self.device} is broken")
        time.sleep(self.factory.seconds)
        self.factory.note(self.device, list(job.indices), begin)
        environment = {"reference": job.reference_ms}
        return [
            {"latency_ms": Measurement(float(a.content), 0.1, "ms", environment=environment)} for a in job.artifacts
        ]
