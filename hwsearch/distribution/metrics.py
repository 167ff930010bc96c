"""What a run on a cluster tells Ray's metrics: Prometheus reads them from every node, Ray's dashboard shows them."""

from __future__ import annotations

import time
from collections.abc import Callable

from ray.util.metrics import Counter, Gauge

from hwsearch.results import RunCounts

EVERY_S = 1.0
"""How often numbers are handed to Ray."""


class RunMetrics:
    """Counters and gauges of one run, all with the tag `run`.

    Ray puts `ray_` before each name.

    Args:
        run: its name.
    """

    def __init__(self, run: str) -> None:
        tags = {"run": run}

        def counter(name: str, text: str) -> Counter:
            made = Counter(f"hwsearch_{name}", description=text, tag_keys=("run",))
            made.set_default_tags(tags)
            return made

        def gauge(name: str, text: str) -> Gauge:
            made = Gauge(f"hwsearch_{name}", description=text, tag_keys=("run",))
            made.set_default_tags(tags)
            return made

        self._done = counter("trials_done", "Trials that are over, failed ones included.")
        self._failed = counter("trials_failed", "Trials that failed.")
        self._running = gauge("trials_in_flight", "Trials that were proposed and are not over.")
        self._engine = counter("engine_seconds", "Time that the engine took to propose.")
        self._workers = gauge("workers", "Accuracy workers that are up.")
        self._idle = gauge("worker_idle_share", "Share of the accuracy workers' time without a job, since last told.")
        self._last = RunCounts()
        self._looked = self._told = time.monotonic()
        self._idle_s = self._worker_s = 0.0

    def look(self, counts: Callable[[], RunCounts], *, n_workers: int, n_busy: int) -> None:
        """Notes who works now; hands the numbers to Ray now and then.

        Args:
            counts: of the run; asked only when they are handed over.
            n_workers: that are up.
            n_busy: of these, that have a job.
        """
        now = time.monotonic()
        self._worker_s += (now - self._looked) * n_workers
        self._idle_s += (now - self._looked) * max(0, n_workers - n_busy)
        self._looked = now
        if now - self._told < EVERY_S:
            return
        self._told, new = now, counts()
        for metric, before, after in (
            (self._done, self._last.n_done, new.n_done),
            (self._failed, self._last.n_failed, new.n_failed),
            (self._engine, self._last.engine_seconds, new.engine_seconds),
        ):
            if after > before:
                metric.inc(after - before)
        self._running.set(new.n_running)
        self._workers.set(n_workers)
        if self._worker_s > 0:
            self._idle.set(self._idle_s / self._worker_s)
        self._last, self._idle_s, self._worker_s = new, 0.0, 0.0
