"""SimulatedExecutor: thousands of workers in virtual time, to see whether the driver keeps them busy."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from typing import Any

from hwsearch.distribution.executor import Executor
from hwsearch.distribution.jobs import EvaluateJob, Job, Limits, Slot
from hwsearch.results import Artifact, Evaluation

Work = Callable[[EvaluateJob], tuple[Evaluation, dict[str, Artifact]]]


class SimulatedExecutor(Executor):
    """A discrete-event simulation of workers around a real driver.

    Whatever the driver does between two calls - engine, record, scheduling - takes as long in virtual time as it
    takes here; waiting for workers takes none here. So the share of time in which a worker has work is what this
    driver would reach on a cluster of that size, apart from the cost of messages.

    Args:
        n_workers: accuracy workers.
        evaluate: what a worker answers; costs no virtual time.
        duration_s: seconds that a job takes.
        message_s: driver time per message to or from a worker.
    """

    def __init__(
        self,
        n_workers: int,
        *,
        evaluate: Work,
        duration_s: Callable[[EvaluateJob], float],
        message_s: float = 0.0,
    ) -> None:
        super().__init__([Slot(f"accuracy-{i}", f"host-{i}") for i in range(n_workers)], Limits(timeout_s=None))
        self._evaluate, self._duration_s, self._message_s = evaluate, duration_s, message_s
        self._events: list[tuple[float, int, Slot]] = []
        self._n_started = 0
        self._virtual_s = 0.0
        self._real_s = time.perf_counter()
        self.worked_s = 0.0
        """Seconds for which workers had work, all together, of jobs that have ended."""

    def _now(self) -> float:
        """Returns the virtual time: what the driver took, and what it waited."""
        now = time.perf_counter()
        self._virtual_s += now - self._real_s
        self._real_s = now
        return self._virtual_s

    @property
    def elapsed_s(self) -> float:
        """Virtual seconds since the start."""
        return self._now()

    def _start(self, slot: Slot, job: Job) -> None:
        assert isinstance(job, EvaluateJob)
        self._virtual_s += self._message_s
        heapq.heappush(self._events, (self._now() + self._duration_s(job), self._n_started, slot))
        self._n_started += 1

    def _collect(self, timeout_s: float) -> list[tuple[Slot, Any]]:
        now = self._now()
        if not self._events:
            return []
        self._virtual_s = now = max(now, min(self._events[0][0], now + timeout_s))
        out: list[tuple[Slot, Any]] = []
        while self._events and self._events[0][0] <= now:
            ended, _, slot = heapq.heappop(self._events)
            assert isinstance(slot.job, EvaluateJob)
            self.worked_s += ended - slot.started
            self._virtual_s += self._message_s
            before = time.perf_counter()
            out.append((slot, self._evaluate(slot.job)))
            self._real_s += time.perf_counter() - before  # a worker's time, not the driver's
        return out

    def _replace(self, slot: Slot) -> None:
        pass

    def close(self) -> None:
        """Forgets what has not ended."""
        self._events.clear()
