"""Executors: which job runs where and when. The policy is here; how a job is carried is in the subclasses."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from hwsearch.distribution.jobs import (
    Evaluated,
    EvaluateJob,
    GroupLost,
    HostLost,
    Job,
    Limits,
    Measured,
    MeasureJob,
    Result,
    Slot,
    WorkerDied,
    WorkerFailed,
    one_line,
)
from hwsearch.errors import WorkerError
from hwsearch.results import Evaluation, RunCounts

MOVES = 20
"""How often a job is sent elsewhere after a loss that may not be its fault, before that counts as an attempt."""


@dataclass
class Waiting:
    """A job that waits: since when, how often it was tried, how often it was lost without being to blame."""

    job: Job
    since: float
    attempt: int = 0
    moves: int = 0


class Executor(ABC):
    """Carries jobs to slots.

    A lane of an exclusive device never runs beside another timing or an accuracy job on its host: once it has
    enough to time (or has waited long enough), no accuracy job is sent to that host until the timing is over.
    """

    def __init__(self, slots: Sequence[Slot], limits: Limits) -> None:
        self.slots: list[Slot] = []
        self.limits = limits
        self._evaluations: deque[Waiting] = deque()
        self._measurements: dict[str, deque[Waiting]] = {}
        # Thousands of slots: what is asked at every event is kept, not counted.
        self._lanes: list[Slot] = []
        self._resting: dict[Slot, None] = {}  # accuracy slots that could take a job
        self._busy: dict[Slot, None] = {}
        self._n_busy_accuracy = 0
        self._checked_s = 0.0
        self.references: dict[str, float] = {}
        """Device -> what its reference net counts as; attached to every measuring from now on."""
        for slot in slots:
            self._add(slot)

    # -- slots come and go ---------------------------------------------------------------------------

    def _add(self, slot: Slot) -> None:
        self.slots.append(slot)
        if slot.device is not None:
            self._lanes.append(slot)
            self._measurements.setdefault(slot.device, deque())
        self._ready(slot, slot.ready)

    def _ready(self, slot: Slot, ready: bool) -> None:
        """Notes whether a slot's worker is up."""
        slot.ready = ready
        if slot.device is None:
            self._resting.pop(slot, None)
            if ready and slot.job is None and slot.broken is None:
                self._resting[slot] = None

    def _remove(self, slot: Slot) -> None:
        """Takes an accuracy slot that has no job away."""
        self._resting.pop(slot, None)
        self.slots.remove(slot)

    def _now(self) -> float:
        """Returns the time in seconds; a simulation has its own."""
        return time.monotonic()

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
        n_open = len(self._resting)
        if timing:
            n_open = sum(not any(_together(s, t) for t in timing) for s in self._resting)
        return max(0, n_open - len(self._evaluations))

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self._evaluations and not self._busy and not any(self._measurements.values())

    @property
    def n_waiting(self) -> int:
        """How many jobs were submitted and have not been started."""
        return len(self._evaluations) + sum(len(queue) for queue in self._measurements.values())

    @property
    def n_busy(self) -> int:
        """How many accuracy workers have a job."""
        return self._n_busy_accuracy

    @property
    def broken(self) -> dict[str, str]:
        """Device whose lane cannot be made -> why."""
        return {s.device: s.broken for s in self.slots if s.device is not None and s.broken is not None}

    def submit(self, job: Job) -> None:
        """Queues a job."""
        now = self._now()
        if isinstance(job, EvaluateJob):
            self._evaluations.append(Waiting(job, now))
        else:
            if job.device not in self._measurements:
                raise ValueError(f"device must be one of {sorted(self._measurements)}, but got {job.device!r}.")
            for index, artifact in zip(job.indices, job.artifacts, strict=True):
                self._measurements[job.device].append(Waiting(MeasureJob(job.device, (index,), (artifact,)), now))

    def wait(self, timeout_s: float = 1.0) -> list[Result]:
        """Starts what can start and returns what finished, waiting up to `timeout_s` for something.

        Raises:
            WorkerError: no accuracy worker, or no lane at all, can be made.
        """
        self._schedule()
        results: list[Result] = self._refuse()
        for slot, outcome in self._collect(timeout_s):
            results.extend(self._finish(slot, outcome))
        results.extend(self._give_up())
        return results

    def _give_up(self) -> list[Result]:
        """Returns the outcome of jobs that ran for too long; their workers are replaced."""
        limit, now = self.limits.timeout_s, self._now()
        if limit is None or now - self._checked_s < min(1.0, limit / 10.0):
            return []
        self._checked_s = now
        results = []
        for slot in [s for s in self._busy if now - s.started > limit]:
            self._replace(slot)
            results += self._finish(slot, WorkerDied(f"gave up after {limit:g} s"), replace_worker=False)
        return results

    def report(self, counts: Callable[[], RunCounts]) -> None:  # noqa: B027 - most have nobody to tell
        """Is told by the loop where the run stands, often; a cluster makes it known."""

    # -- policy --------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        for lane in self._lanes:
            resting = lane.job is None and lane.ready and lane.broken is None
            if resting and self._lane_due(lane) and self._host_quiet(lane):
                self._time(lane)
        if not self._evaluations or not self._resting:
            return
        timing = [s for s in self._exclusive() if s.job is not None or self._has_enough(s)]
        for slot in list(islice(self._resting, None if timing else len(self._evaluations))):
            if not self._evaluations:
                break
            if not any(_together(slot, lane) for lane in timing):
                self._run(slot, self._evaluations.popleft())

    def _time(self, lane: Slot) -> None:
        """Starts a lane's next measuring."""
        assert lane.device is not None
        batch = [self._measurements[lane.device].popleft() for _ in range(self._batch_size(lane.device))]
        job = MeasureJob(
            lane.device,
            tuple(i for w in batch if isinstance(w.job, MeasureJob) for i in w.job.indices),
            tuple(a for w in batch if isinstance(w.job, MeasureJob) for a in w.job.artifacts),
            self.references.get(lane.device),
        )
        attempt, moves = max(w.attempt for w in batch), max(w.moves for w in batch)
        self._run(lane, Waiting(job, self._now(), attempt, moves))

    def _refuse(self) -> list[Result]:
        """Returns what waits for lanes that cannot be made, as errors."""
        refused: list[Result] = []
        for slot in self._lanes:
            if slot.device is not None and slot.broken is not None:
                queue = self._measurements[slot.device]
                while queue:
                    job = queue.popleft().job
                    assert isinstance(job, MeasureJob)
                    refused.append(Measured(job, tuple(slot.broken for _ in job.indices)))
        return refused

    def _accuracy(self) -> list[Slot]:
        return [s for s in self.slots if s.device is None and s.broken is None]

    def _run(self, slot: Slot, waiting: Waiting) -> None:
        slot.job, slot.attempt, slot.moves = waiting.job, waiting.attempt, waiting.moves
        slot.started = self._now()
        self._busy[slot] = None
        if slot.device is None:
            del self._resting[slot]
            self._n_busy_accuracy += 1
        self._start(slot, waiting.job)

    def _batch_size(self, device: str) -> int:
        """Whole batches; something that was tried before goes alone, so that a killer is found."""
        queue = self._measurements[device]
        if queue[0].attempt:
            return 1
        return min(len(queue), self.limits.lane_batch)

    def _has_enough(self, lane: Slot) -> bool:
        """Whether a lane that is up has a whole batch, has waited long enough, or tries something again."""
        assert lane.device is not None
        queue = self._measurements[lane.device]
        return (
            bool(queue)
            and lane.ready
            and (
                len(queue) >= self.limits.lane_batch
                or self._now() - queue[0].since >= self.limits.lane_wait_s
                or queue[0].attempt > 0
            )
        )

    def _lane_due(self, lane: Slot) -> bool:
        """Whether a lane should time now: it has enough, or nothing is on its way to it."""
        assert lane.device is not None
        nothing_to_come = not self._evaluations and not self._n_busy_accuracy
        return self._has_enough(lane) or (nothing_to_come and bool(self._measurements[lane.device]))

    def _exclusive(self) -> list[Slot]:
        return [s for s in self._lanes if s.exclusive and s.broken is None]

    def _host_quiet(self, lane: Slot) -> bool:
        if any(_together(s, lane) for s in self._busy if lane.exclusive or (s.device is not None and s.exclusive)):
            return False
        return not lane.exclusive or not any(
            self._starting(s) for s in self.slots if s is not lane and _together(s, lane)
        )

    def _finish(self, slot: Slot, outcome: Any, *, replace_worker: bool = True) -> list[Result]:
        job, attempt, moves = slot.job, slot.attempt, slot.moves
        assert job is not None
        slot.job = None
        del self._busy[slot]
        self._n_busy_accuracy -= slot.device is None
        if isinstance(outcome, WorkerFailed):
            return self._worker_failed(slot, job, attempt, str(outcome))
        if isinstance(outcome, WorkerDied):
            if replace_worker:
                self._replace(slot)
            self._ready(slot, slot.ready)
            innocent = isinstance(outcome, HostLost | GroupLost) and moves < MOVES
            if innocent or attempt < self.limits.retries:
                attempt, moves = (attempt, moves + 1) if innocent else (attempt + 1, moves)
                again = [Waiting(part, self._now(), attempt, moves) for part in _split(job)]
                queue = self._evaluations if isinstance(job, EvaluateJob) else self._measurements[job.device]
                queue.extendleft(reversed(again))
                return []
            reason = str(outcome) or "the worker died"
            outcome = RuntimeError(f"{reason} ({attempt + 1} attempts)")
        self._ready(slot, slot.ready)
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

    def _worker_failed(self, slot: Slot, job: Job | None, attempt: int, reason: str) -> list[Result]:
        """Takes a slot out of service. Its evaluation goes to another slot; a lane's queue is refused."""
        slot.broken = f"the worker could not be made: {reason}"
        self._resting.pop(slot, None)
        if slot.device is None or isinstance(job, EvaluateJob):
            if not self._accuracy():
                raise WorkerError(f"at least one accuracy worker must come up, but: {reason}")
            if job is not None:
                self._evaluations.appendleft(Waiting(job, self._now(), attempt))
            return []
        if all(s.broken is not None for s in self._lanes):
            broken = "; ".join(f"{s.device}: {(s.broken or '').partition(': ')[2]}" for s in self._lanes)
            raise WorkerError(f"at least one device must come up, but {broken}")
        return [] if job is None else [Measured(job, tuple(slot.broken for _ in job.indices))]


def _together(one: Slot, other: Slot) -> bool:
    """Whether two slots share cores, or may."""
    return one.host is None or other.host is None or one.host == other.host


def _split(job: Job) -> list[Job]:
    if isinstance(job, EvaluateJob):
        return [job]
    return [MeasureJob(job.device, (i,), (a,)) for i, a in zip(job.indices, job.artifacts, strict=True)]
