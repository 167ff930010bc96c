"""What travels between the loop and the workers: jobs, results, places to work, and how a worker can fail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from hwsearch.results import Artifact, Evaluation, Measurement

Split = Literal["search", "holdout"]
MeasureResult = dict[str, Measurement] | str
"""Metric -> measurement, or one line saying why there is none."""


@dataclass(frozen=True)
class EvaluateJob:
    """Evaluate one architecture on a split of the data and make its artifacts.

    Args:
        index: proposal index.
        row: (g,) genotype.
        split: of the data set.
        artifacts: whether to export.
    """

    index: int
    row: NDArray[np.uint8]
    split: Split = "search"
    artifacts: bool = True


@dataclass(frozen=True)
class MeasureJob:
    """Measure some artifacts on one device, interleaved with each other and a reference net.

    Args:
        device: name.
        indices: proposal index per artifact.
        artifacts: what to measure.
        reference_ms: what the reference net counts as, once that is known (see `Device`).
    """

    device: str
    indices: tuple[int, ...]
    artifacts: tuple[Artifact, ...]
    reference_ms: float | None = None


Job = EvaluateJob | MeasureJob


@dataclass(frozen=True)
class Evaluated:
    """Result of an `EvaluateJob`; artifacts by device name."""

    job: EvaluateJob
    evaluation: Evaluation
    artifacts: dict[str, Artifact]


@dataclass(frozen=True)
class Measured:
    """Result of a `MeasureJob`, one per artifact."""

    job: MeasureJob
    results: tuple[MeasureResult, ...]


Result = Evaluated | Measured


class AccuracyWorker(Protocol):
    """Evaluates architectures; plain Python, made by a factory inside the process where it works."""

    def evaluate(self, job: EvaluateJob) -> tuple[Evaluation, dict[str, Artifact]]:
        """Returns the evaluation and the artifacts by device; never raises for a failing network."""
        ...


class LaneWorker(Protocol):
    """Measures on one device."""

    def measure(self, job: MeasureJob) -> list[MeasureResult]:
        """Returns one result per artifact of the job."""
        ...


class WorkerFactory(Protocol):
    """Makes workers where they will work; picklable and small: large weights are attached by the executor."""

    def accuracy(self, weights: dict[str, NDArray[Any]] | None) -> AccuracyWorker:
        """Returns an accuracy worker that uses the given full weights (None: the space has none)."""
        ...

    def lane(self, device: str) -> LaneWorker:
        """Returns the measuring lane of a device."""
        ...


@dataclass(eq=False)
class Slot:
    """A place where one job at a time can run.

    Args:
        name: unique.
        host: slots on one host share cores; None while it is not known: then it may be any.
        device: of a lane; None for accuracy.
        exclusive: a lane that needs its host's cores for itself.
        ready: its worker is up; only then it gets jobs.
        broken: why its worker cannot be made; such a slot gets no more jobs.
    """

    name: str
    host: str | None
    device: str | None = None
    exclusive: bool = True
    ready: bool = True
    job: Job | None = None
    attempt: int = 0
    moves: int = 0
    started: float = 0.0
    worker: Any = None
    broken: str | None = None


@dataclass(frozen=True)
class Resources:
    """What one worker needs.

    Args:
        cpus: cores; may be a fraction.
        gpus: GPUs; may be a fraction, so that workers share one.
        memory_bytes: 0 for no claim.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    memory_bytes: float = 0.0

    def fit(self, node: Mapping[str, float]) -> int:
        """Returns how many workers a node with these resources (Ray's names) holds."""
        needs = {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory_bytes}
        return min(int(node.get(name, 0.0) / need + 1e-9) for name, need in needs.items() if need > 0)


@dataclass(frozen=True)
class Limits:
    """How jobs are treated.

    Args:
        retries: how often a job is tried again after its worker died.
        timeout_s: a job that takes longer is given up and its worker replaced; None for no limit.
        lane_batch: artifacts that are timed together.
        lane_wait_s: how long a lane waits for more artifacts before it times fewer.
    """

    retries: int = 1
    timeout_s: float | None = 600.0
    lane_batch: int = 8
    lane_wait_s: float = 10.0


class WorkerDied(Exception):
    """The process that carried a job is gone."""


class WorkerFailed(Exception):
    """The factory could not make the worker; trying again would not help."""


class HostLost(WorkerDied):
    """The whole host is gone, which says nothing about the job."""


class GroupLost(WorkerDied):
    """The process is gone while it had several jobs; which of them took it along is not known."""


def one_line(error: BaseException) -> str:
    """Returns `Type: message` of an exception, in one line."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
