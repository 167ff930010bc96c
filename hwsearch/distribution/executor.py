"""Executors: which job runs where and when. The policy is here; how a job is carried is in the subclasses."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from hwsearch.errors import WorkerError
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
        broken: why its worker cannot be made; such a slot gets no more jobs.
    """

    name: str
    host: str | None
    device: str | None = None
    exclusive: bool = True
    job: Job | None = None
    attempt: int = 0
    started: float = 0.0
    worker: Any = None
    broken: str | None = None


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


@dataclass
class _Waiting:
    job: Job
    attempt: int = 0
    since: float = field(default_factory=time.monotonic)


class WorkerDied(Exception):
    """The process that carried a job is gone."""


class WorkerFailed(Exception):
    """The factory could not make the worker; trying again would not help."""


class Executor(ABC):
    """Carries jobs to slots.

    A lane of an exclusive device never runs beside another timing or an accuracy job on its host: once it has
    enough to time (or has waited long enough), no accuracy job is sent to that host until the timing is over.
    """

    def __init__(self, slots: Sequence[Slot], limits: Limits) -> None:
        self.slots = list(slots)
        self.limits = limits
        self._evaluations: deque[_Waiting] = deque()
        self._measurements: dict[str, deque[_Waiting]] = {s.device: deque() for s in slots if s.device is not None}
        self.references: dict[str, float] = {}
        """Device -> what its reference net counts as; attached to every measuring from now on."""

    # -- how a job is carried ------------------------------------------------------------------------

    @abstractmethod
    def _start(self, slot: Slot, job: Job) -> None:
        """Starts the job on the slot's worker."""

    @abstractmethod
    def _collect(self, timeout_s: float) -> list[tuple[Slot, Any]]:
        """Returns finished slots with their outcome.

        That is what the worker returned or raised, `WorkerDied` or `WorkerFailed`.
        """

    def _starting(self, slot: Slot) -> bool:
        """Returns whether the slot's worker is only just coming up, which uses cores."""
        return False

    @abstractmethod
    def _replace(self, slot: Slot) -> None:
        """Ends the slot's worker, if it still lives, and makes a new one."""

    @abstractmethod
    def close(self) -> None:
        """Ends all workers."""

    # -- what the loop uses --------------------------------------------------------------------------

    @property
    def free(self) -> int:
        """How many evaluations would start at once if they were submitted now.

        None on a host where a timing runs or is due: what is proposed afterwards can know its result.
        """
        timing = [s for s in self._exclusive() if s.job is not None or self._has_enough(s)]
        open_slots = sum(s.job is None and not any(_together(s, t) for t in timing) for s in self._accuracy())
        return max(0, open_slots - len(self._evaluations))

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return (
            not self._evaluations
            and not any(self._measurements.values())
            and all(slot.job is None for slot in self.slots)
        )

    @property
    def n_waiting(self) -> int:
        """How many jobs were submitted and have not been started."""
        return len(self._evaluations) + sum(len(queue) for queue in self._measurements.values())

    @property
    def broken(self) -> dict[str, str]:
        """Device whose lane cannot be made -> why."""
        return {s.device: s.broken for s in self.slots if s.device is not None and s.broken is not None}

    def submit(self, job: Job) -> None:
        """Queues a job."""
        if isinstance(job, EvaluateJob):
            self._evaluations.append(_Waiting(job))
        else:
            if job.device not in self._measurements:
                raise ValueError(f"device must be one of {sorted(self._measurements)}, but got {job.device!r}.")
            for index, artifact in zip(job.indices, job.artifacts, strict=True):
                self._measurements[job.device].append(_Waiting(MeasureJob(job.device, (index,), (artifact,))))

    def wait(self, timeout_s: float = 1.0) -> list[Result]:
        """Starts what can start and returns what finished, waiting up to `timeout_s` for something.

        Raises:
            WorkerError: no accuracy worker, or no lane at all, can be made.
        """
        self._schedule()
        results: list[Result] = self._refuse()
        for slot, outcome in self._collect(timeout_s):
            results.extend(self._finish(slot, outcome))
        if self.limits.timeout_s is not None:
            for slot in self.slots:
                if slot.job is not None and time.monotonic() - slot.started > self.limits.timeout_s:
                    self._replace(slot)
                    results.extend(
                        self._finish(
                            slot, WorkerDied(f"gave up after {self.limits.timeout_s:g} s"), replace_worker=False
                        )
                    )
        return results

    # -- policy --------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        for slot in self.slots:
            if slot.device is None or slot.job is not None or slot.broken is not None:
                continue
            if self._lane_due(slot) and self._host_quiet(slot):
                batch = [self._measurements[slot.device].popleft() for _ in range(self._batch_size(slot.device))]
                job = MeasureJob(
                    slot.device,
                    tuple(i for w in batch if isinstance(w.job, MeasureJob) for i in w.job.indices),
                    tuple(a for w in batch if isinstance(w.job, MeasureJob) for a in w.job.artifacts),
                    self.references.get(slot.device),
                )
                self._run(slot, _Waiting(job, max(w.attempt for w in batch)))
        for slot in self._accuracy():
            if slot.job is None and self._evaluations and not self._gated(slot):
                self._run(slot, self._evaluations.popleft())

    def _refuse(self) -> list[Result]:
        """Returns what waits for lanes that cannot be made, as errors."""
        refused: list[Result] = []
        for slot in self.slots:
            if slot.device is not None and slot.broken is not None:
                queue = self._measurements[slot.device]
                while queue:
                    job = queue.popleft().job
                    assert isinstance(job, MeasureJob)
                    refused.append(Measured(job, tuple(slot.broken for _ in job.indices)))
        return refused

    def _accuracy(self) -> list[Slot]:
        return [s for s in self.slots if s.device is None and s.broken is None]

    def _run(self, slot: Slot, waiting: _Waiting) -> None:
        slot.job, slot.attempt, slot.started = waiting.job, waiting.attempt, time.monotonic()
        self._start(slot, waiting.job)

    def _batch_size(self, device: str) -> int:
        """Whole batches; something that was tried before goes alone, so that a killer is found."""
        queue = self._measurements[device]
        if queue[0].attempt:
            return 1
        return min(len(queue), self.limits.lane_batch)

    def _has_enough(self, lane: Slot) -> bool:
        """Whether a lane has a whole batch, has waited long enough, or tries something again."""
        assert lane.device is not None
        queue = self._measurements[lane.device]
        return bool(queue) and (
            len(queue) >= self.limits.lane_batch
            or time.monotonic() - queue[0].since >= self.limits.lane_wait_s
            or queue[0].attempt > 0
        )

    def _lane_due(self, lane: Slot) -> bool:
        """Whether a lane should time now: it has enough, or nothing is on its way to it."""
        assert lane.device is not None
        nothing_to_come = not self._evaluations and not any(s.device is None and s.job is not None for s in self.slots)
        return self._has_enough(lane) or (nothing_to_come and bool(self._measurements[lane.device]))

    def _exclusive(self) -> list[Slot]:
        return [s for s in self.slots if s.device is not None and s.exclusive and s.broken is None]

    def _host_quiet(self, lane: Slot) -> bool:
        others = [s for s in self.slots if s is not lane and _together(s, lane)]
        if lane.exclusive:
            return not any(s.job is not None or self._starting(s) for s in others)
        return not any(s.job is not None and s.device is not None and s.exclusive for s in others)

    def _gated(self, slot: Slot) -> bool:
        """Whether a timing on the slot's host runs or is due."""
        return any(s.job is not None or self._lane_due(s) for s in self._exclusive() if _together(s, slot))

    def _finish(self, slot: Slot, outcome: Any, *, replace_worker: bool = True) -> list[Result]:
        job, attempt = slot.job, slot.attempt
        assert job is not None
        slot.job = None
        if isinstance(outcome, WorkerFailed):
            return self._worker_failed(slot, job, attempt, str(outcome))
        if isinstance(outcome, WorkerDied):
            if replace_worker:
                self._replace(slot)
            if attempt < self.limits.retries:
                again = [_Waiting(part, attempt + 1) for part in _split(job)]
                queue = self._evaluations if isinstance(job, EvaluateJob) else self._measurements[job.device]
                queue.extendleft(reversed(again))
                return []
            reason = str(outcome) or "the worker died"
            outcome = RuntimeError(f"{reason} ({attempt + 1} attempts)")
        if isinstance(job, EvaluateJob):
            if isinstance(outcome, BaseException):
                return [Evaluated(job, Evaluation({}, seconds=0.0, error=one_line(outcome)), {})]
            evaluation, artifacts = outcome
            if attempt:
                evaluation = replace(evaluation, attributes={**evaluation.attributes, "retries": attempt})
            return [Evaluated(job, evaluation, artifacts)]
        if isinstance(outcome, BaseException):
            return [Measured(job, tuple(one_line(outcome) for _ in job.indices))]
        return [Measured(job, tuple(outcome))]

    def _worker_failed(self, slot: Slot, job: Job, attempt: int, reason: str) -> list[Result]:
        """Takes a slot out of service. Its evaluation goes to another slot; a lane's queue is refused."""
        slot.broken = f"the worker could not be made: {reason}"
        lanes = [s for s in self.slots if s.device is not None]
        if isinstance(job, EvaluateJob):
            if not self._accuracy():
                raise WorkerError(f"at least one accuracy worker must come up, but: {reason}")
            self._evaluations.appendleft(_Waiting(job, attempt))
            return []
        if all(s.broken is not None for s in lanes):
            broken = "; ".join(f"{s.device}: {(s.broken or '').partition(': ')[2]}" for s in lanes)
            raise WorkerError(f"at least one device must come up, but {broken}")
        return [Measured(job, tuple(slot.broken for _ in job.indices))]


def _together(one: Slot, other: Slot) -> bool:
    """Whether two slots share cores, or may."""
    return one.host is None or other.host is None or one.host == other.host


def _split(job: Job) -> list[Job]:
    if isinstance(job, EvaluateJob):
        return [job]
    return [MeasureJob(job.device, (i,), (a,)) for i, a in zip(job.indices, job.artifacts, strict=True)]


def one_line(error: BaseException) -> str:
    """Returns `Type: message` of an exception, in one line."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
