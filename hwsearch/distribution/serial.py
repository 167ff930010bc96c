"""SerialExecutor: everything in this process, one job after another; for debugging, tests and exact replay."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from hwsearch.distribution.executor import Executor
from hwsearch.distribution.jobs import EvaluateJob, Job, Limits, Slot, WorkerFactory, WorkerFailed, one_line


class SerialExecutor(Executor):
    """Runs each job when it is submitted for its turn. Every measurement is timed as soon as it is there.

    Args:
        factory: of workers; called on first use.
        weights: full weights of the super-network, or None.
        devices: (name, exclusive) of all lanes.
        limits: retries and time limits do not apply: a crash here is a crash of the driver.
    """

    def __init__(
        self,
        factory: WorkerFactory,
        weights: dict[str, NDArray[Any]] | None,
        *,
        devices: Sequence[tuple[str, bool]] = (),
        limits: Limits | None = None,
    ) -> None:
        limits = replace(limits or Limits(), retries=0, timeout_s=None, lane_batch=1)
        slots = [Slot("accuracy", "here")] + [Slot(d, "here", device=d, exclusive=x) for d, x in devices]
        super().__init__(slots, limits)
        self._factory, self._weights = factory, weights
        self._done: list[tuple[Slot, Any]] = []

    def _start(self, slot: Slot, job: Job) -> None:
        self._done.append((slot, self._carry(slot, job)))

    def _carry(self, slot: Slot, job: Job) -> Any:
        try:
            if slot.worker is None:
                slot.worker = (
                    self._factory.accuracy(self._weights) if slot.device is None else self._factory.lane(slot.device)
                )
        except Exception as error:
            return WorkerFailed(one_line(error))
        try:
            return slot.worker.evaluate(job) if isinstance(job, EvaluateJob) else slot.worker.measure(job)
        except Exception as error:
            return error

    def _collect(self, timeout_s: float) -> list[tuple[Slot, Any]]:
        if not self._done:
            time.sleep(min(timeout_s, 0.01))
        done, self._done = self._done, []
        return done

    def _replace(self, slot: Slot) -> None:
        slot.worker = None

    @property
    def free(self) -> int:
        """One, once everything before it is evaluated and measured: proposals then know all there is to know."""
        return int(self.idle)

    def close(self) -> None:
        """Forgets the workers."""
        for slot in self.slots:
            slot.worker = None
