"""The search loop: propose, submit, record; nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from hwsearch.distribution.executor import Evaluated, EvaluateJob, Executor, Measured, MeasureJob
from hwsearch.engines.base import SearchEngine
from hwsearch.results import Evaluation, SearchProgress, State
from hwsearch.runfolder import RunFolder
from hwsearch.study import Study, Trial


@dataclass(frozen=True)
class SearchResult:
    """How a search ended: `exhausted` when the space had no more architectures."""

    n_trials: int
    n_failed: int
    exhausted: bool


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
        self._remaking: set[int] = set()
        executor.references.update(folder.references())

    def run(self, trials: int, *, observe: Callable[[SearchProgress], None] | None = None) -> SearchResult:
        """Proposes and evaluates until `trials` architectures are known, and every one of them has arrived.

        Args:
            trials: total of the run, those of earlier drivers included.
            observe: called after every arrival and about once a second.
        """
        self._resume()
        started, done_before = time.monotonic(), self._n_done()
        exhausted = False
        latest: Trial | None = None
        while True:
            room = min(self.executor.free, trials - len(self.study.trials))
            if room > 0 and not exhausted:
                exhausted = self._propose(room) < room
            if self.executor.idle and (exhausted or len(self.study.trials) >= trials):
                break
            for result in self.executor.wait(1.0):
                latest = self._evaluated(result) if isinstance(result, Evaluated) else self._measured(result)
            if observe is not None:
                observe(self._progress(trials, time.monotonic() - started, done_before, latest))
        failed = sum(trial.state == State.FAILED for trial in self.study.trials)
        return SearchResult(len(self.study.trials), failed, exhausted)

    def _resume(self) -> None:
        """Takes up evaluated trials whose measurement is missing; makes their artifacts again if they are gone."""
        for index, device in self.study.unmeasured():
            trial = self.study.trial(index)
            digest = trial.attributes.get("artifacts", {}).get(device)
            artifact = self.folder.load_artifact(digest) if digest else None
            if artifact is not None:
                self.executor.submit(MeasureJob(device, (index,), (artifact,)))
            elif index not in self._remaking:
                self._remaking.add(index)
                self.executor.submit(EvaluateJob(index, trial.row))

    def _propose(self, count: int) -> int:
        started = time.perf_counter()
        population = self.engine.propose(self.study.history(), count)
        seconds = time.perf_counter() - started
        attributes = {
            "engine": type(self.engine).__name__,
            "engine_seconds": round(seconds / max(1, len(population)), 6),
        }
        for index, row in zip(self.study.start(population, attributes=attributes), population, strict=True):
            self.executor.submit(EvaluateJob(index, row))
        return len(population)

    def _evaluated(self, result: Evaluated) -> Trial:
        index, evaluation = result.job.index, result.evaluation
        artifacts = {device: self.folder.store(artifact) for device, artifact in result.artifacts.items()}
        if index in self._remaking:
            self._remaking.discard(index)
            if evaluation.error is not None:
                for device in self.study.devices:
                    self.study.record_measurement(index, device, evaluation.error)
                return self.study.trial(index)
        else:
            attributes = {**evaluation.attributes, "artifacts": artifacts}
            evaluation = Evaluation(
                evaluation.metrics, evaluation.seconds, evaluation.error, evaluation.stds, attributes
            )
            self.study.record(index, evaluation)
        if evaluation.error is None:
            for device in self.study.devices:
                if device not in self.study.trial(index).arrived:
                    self.executor.submit(MeasureJob(device, (index,), (result.artifacts[device],)))
        return self.study.trial(index)

    def _measured(self, result: Measured) -> Trial:
        device = result.job.device
        for index, measurement in zip(result.job.indices, result.results, strict=True):
            self.study.record_measurement(index, device, measurement)
            if device not in self.executor.references and not isinstance(measurement, str):
                self.executor.references.update(self.folder.freeze_reference(device, measurement))
        return self.study.trial(result.job.indices[-1])

    def _n_done(self) -> int:
        return sum(trial.state != State.RUNNING for trial in self.study.trials)

    def _progress(self, trials: int, elapsed_s: float, done_before: int, latest: Trial | None) -> SearchProgress:
        done = self._n_done()
        rate = (done - done_before) / elapsed_s if elapsed_s > 0 else 0.0
        return SearchProgress(
            n_trials=trials,
            n_done=done,
            n_failed=sum(trial.state == State.FAILED for trial in self.study.trials),
            n_running=len(self.study.trials) - done,
            n_front=len(self.study.front()),
            elapsed_s=elapsed_s,
            eta_s=(trials - done) / rate if rate > 0 else None,
            latest_error=latest.error if latest is not None else None,
        )
