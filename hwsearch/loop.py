"""The search loop: propose, submit, record; nothing else."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from hwsearch import pareto
from hwsearch.distribution.executor import Executor
from hwsearch.distribution.jobs import Evaluated, EvaluateJob, Measured, MeasureJob
from hwsearch.engines.base import SearchEngine
from hwsearch.pareto import Box
from hwsearch.results import Outlook, RunCounts, SearchProgress, State
from hwsearch.runfolder import RunFolder
from hwsearch.study import Study

VOLUME_EVERY_S = 2.0
"""Seconds between two computations of the hypervolume: with four objectives one may take as long as a trial."""
TAKEN_UP_AT_ONCE = 16
"""Earlier trials that wait in the executor: their artifacts are in memory."""


@dataclass(frozen=True)
class SearchResult:
    """How a search ended: `exhausted` when the space had no more architectures, `stopped` why before its budget."""

    n_trials: int
    n_failed: int
    exhausted: bool
    stopped: str | None = None


class Search:
    """Runs an engine until its budget is used. State lives in the study; this object may be dropped at any time.

    Args:
        study: the record.
        executor: carries the work.
        engine: proposes.
        folder: keeps artifacts and the devices' reference values.
    """

    def __init__(self, study: Study, executor: Executor, engine: SearchEngine, *, folder: RunFolder) -> None:
        self.study, self.executor, self.engine, self.folder = study, executor, engine, folder
        self._left: deque[tuple[int, str]] = deque()  # evaluated earlier, not measured yet
        self._remaking: dict[int, set[str]] = {}  # of these, being evaluated again for the artifacts of devices
        self._latest_error: str | None = None
        self._outlook: Outlook | None = None
        self._volume: tuple[float, float | None] = (-math.inf, None)  # when it was computed, and what
        self._engine_seconds = 0.0
        self.left_out: dict[str, str] = {}
        """Device that the search goes on without -> why."""
        executor.references.update(folder.references())

    def run(
        self,
        trials: int,
        *,
        observe: Callable[[SearchProgress], None] | None = None,
        stop_below: float | None = None,
        max_minutes: float | None = None,
    ) -> SearchResult:
        """Proposes and evaluates until `trials` architectures are known, and every one of them has arrived.

        Args:
            trials: total of the run, those of earlier drivers included.
            observe: called after every arrival and about once a second.
            stop_below: nothing more is proposed once the engine expects the front's hypervolume to grow by a smaller
                share than this.
            max_minutes: nor after so much time of this driver.
        """
        self._left.extend(self.study.unmeasured())
        started, done_before = time.monotonic(), self._n_done()
        exhausted, stopped = False, None
        while True:
            self._take_up()
            room = 0 if self._left else min(self.executor.free, trials - len(self.study.trials))
            if room > 0 and not exhausted and stopped is None:
                stopped = self._reason_to_stop(room, time.monotonic() - started, stop_below, max_minutes)
                if stopped is None:
                    exhausted = self._propose(room) < room
            if self.executor.idle and (exhausted or stopped is not None or len(self.study.trials) >= trials):
                break
            results = self.executor.wait(1.0)
            with self.study.together():
                for result in results:
                    self._evaluated(result) if isinstance(result, Evaluated) else self._measured(result)
            self.executor.report(self._counts)
            if observe is not None:
                observe(self._progress(trials, time.monotonic() - started, done_before))
        return SearchResult(len(self.study.trials), self._n_failed(), exhausted, stopped)

    def _reason_to_stop(
        self, room: int, elapsed_s: float, stop_below: float | None, max_minutes: float | None
    ) -> str | None:
        """Returns why the search ends before its budget, or None; notes what the engine expects."""
        if max_minutes is not None and elapsed_s >= 60.0 * max_minutes:
            return f"search.max_minutes = {max_minutes:g} are over"
        # `propose` is asked the same right after, so an engine computes it once.
        self._outlook = self.engine.outlook(self.study.history(), room)
        if stop_below is not None and self._outlook is not None and self._outlook.gain < stop_below:
            return f"the expected gain of {self._outlook.gain:.2g} is below search.stop_below = {stop_below:g}"
        return None

    def _take_up(self) -> None:
        """Submits some trials whose measurement is missing; makes their artifacts again if they are gone."""
        while self._left and self.executor.n_waiting < TAKEN_UP_AT_ONCE:
            index, device = self._left.popleft()
            trial = self.study.trial(index)
            digest = trial.attributes.get("artifacts", {}).get(device)
            artifact = self.folder.load_artifact(digest) if digest else None
            if artifact is not None:
                self.executor.submit(MeasureJob(device, (index,), (artifact,)))
            elif index in self._remaking:
                self._remaking[index].add(device)
            else:
                self._remaking[index] = {device}
                self.executor.submit(EvaluateJob(index, trial.row))

    def _propose(self, count: int) -> int:
        started = time.perf_counter()
        population = self.engine.propose(self.study.history(), count)
        seconds = time.perf_counter() - started
        self._engine_seconds += seconds
        attributes = {
            "engine": type(self.engine).__name__,
            "engine_seconds": round(seconds / max(1, len(population)), 6),
        }
        for index, row in zip(self.study.start(population, attributes=attributes), population, strict=True):
            self.executor.submit(EvaluateJob(index, row))
        return len(population)

    def _evaluated(self, result: Evaluated) -> None:
        index, evaluation = result.job.index, result.evaluation
        artifacts = {device: self.folder.store(artifact) for device, artifact in result.artifacts.items()}
        self._latest_error = evaluation.error or self._latest_error
        if index in self._remaking:
            devices = self._remaking.pop(index)
            if evaluation.error is not None:
                for device in devices:
                    self.study.record_measurement(index, device, evaluation.error)
        else:
            devices = set(self.study.places(self.study.trial(index).row))
            attributes = {**evaluation.attributes, "artifacts": artifacts}
            evaluation = replace(evaluation, attributes=attributes)
            self.study.record(index, evaluation)
        if evaluation.error is None:
            refused: Mapping[str, str] = evaluation.attributes.get("not_exported", {})  # type: ignore[assignment]
            for device in self.study.devices:
                if device in devices and device in result.artifacts:
                    self.executor.submit(MeasureJob(device, (index,), (result.artifacts[device],)))
                elif device in devices:
                    self.study.record_measurement(index, device, refused.get(device, "there is nothing to measure"))

    def _measured(self, result: Measured) -> None:
        device = result.job.device
        if device in self.executor.broken:
            self.leave_out(device, self.executor.broken[device])
            return
        for index, measurement in zip(result.job.indices, result.results, strict=True):
            self.study.record_measurement(index, device, measurement)
            if isinstance(measurement, str):
                self._latest_error = f"{device}: {measurement}"
            elif device not in self.executor.references:
                self.executor.references.update(self.folder.freeze_reference(device, measurement))

    def leave_out(self, device: str, reason: str) -> None:
        """Goes on without a device that does not come up; a later start of the run measures what it missed."""
        if device not in self.left_out:
            self.left_out[device] = reason
            self.study.leave_out(device)
            self._left = deque((index, d) for index, d in self._left if d != device)

    def _n_done(self) -> int:
        return int((self.study.history().state != State.RUNNING).sum())

    def _n_failed(self) -> int:
        return int((self.study.history().state == State.FAILED).sum())

    def _counts(self) -> RunCounts:
        done = self._n_done()
        return RunCounts(done, self._n_failed(), len(self.study.trials) - done, self._engine_seconds)

    def _progress(self, trials: int, elapsed_s: float, done_before: int) -> SearchProgress:
        done, front = self._n_done(), self.study.front()
        if elapsed_s - self._volume[0] >= VOLUME_EVERY_S:
            self._volume = (elapsed_s, self._hypervolume())
        newest = max(front, key=lambda trial: trial.index, default=None)
        names = [o.name for o in self.study.objectives]
        rate = (done - done_before) / elapsed_s if elapsed_s > 0 else 0.0
        return SearchProgress(
            n_trials=trials,
            n_done=done,
            n_failed=self._n_failed(),
            n_running=len(self.study.trials) - done,
            n_front=len(front),
            elapsed_s=elapsed_s,
            eta_s=(trials - done) / rate if rate > 0 else None,
            latest_error=self._latest_error,
            outlook=self._outlook,
            n_busy=self.executor.n_busy,
            hypervolume=self._volume[1],
            latest=None if newest is None else (newest.key, {n: v for n, v in newest.metrics.items() if n in names}),
        )

    def _hypervolume(self) -> float | None:
        history = self.study.history()
        losses = history.losses[history.feasible]
        return Box.of(losses).share(losses[pareto.front(losses)]) if len(losses) else None
