"""A search while nodes are lost and others join: is every trial there once, with the values of a quiet run?

python -m benchmarks.faults.cluster [--nodes test-cluster | namespaces] [--trials 200] [--seconds 1.5] [--every 20]

`namespaces` starts real `ray start` processes in network namespaces (root only).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import uuid
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.faults.nodes import MARK, Namespaces, Nodes, TestCluster
from benchmarks.faults.record import DEVICE, NAME, config, n_finished, problems
from hwsearch import build, pareto
from hwsearch.distribution.jobs import AccuracyWorker, EvaluateJob, LaneWorker, Limits, MeasureJob
from hwsearch.distribution.ray_executor import RayExecutor
from hwsearch.loop import Search
from hwsearch.results import Artifact, Evaluation
from hwsearch.runfolder import RunFolder
from hwsearch.study import Study, open_storage


@dataclass(frozen=True)
class SlowFactory:
    """The run's own workers, whose evaluations take a while."""

    factory: build.Factory
    seconds: float

    def accuracy(self, weights: Any) -> AccuracyWorker:
        return Slow(self.factory.accuracy(weights), self.seconds)

    def lane(self, device: str) -> LaneWorker:
        return self.factory.lane(device)


class Slow:
    def __init__(self, worker: AccuracyWorker, seconds: float) -> None:
        self.worker, self.seconds = worker, seconds

    def evaluate(self, job: EvaluateJob) -> tuple[Evaluation, dict[str, Artifact]]:
        time.sleep(self.seconds)
        return self.worker.evaluate(job)


def disturb(nodes: Nodes, every_s: float, search: Future[object]) -> int:
    """Loses a node and adds one, every so often, until the search ends; returns how many were lost.

    In the main thread: Ray's nodes of a test cluster set handlers of signals.
    """
    started, n_lost = time.monotonic(), 0
    while not wait([search], timeout=every_s).done:
        what, joined = nodes.kill_oldest(), "another one joined"
        n_lost += 1
        for _ in range(3):
            try:
                nodes.add()
                break
            except RuntimeError:  # a machine that is too busy: none of the search's faults
                joined = "another one joined after Ray had not started one in time"
        else:
            raise RuntimeError("a node must start, but three did not in Ray's own time limit")
        print(f"{time.monotonic() - started:.0f} s: a node lost ({what}), {joined}", flush=True)
    search.result()
    return n_lost


def quiet_losses(raw: dict[str, Any], study: Study) -> np.ndarray:
    """Returns the losses (n, m) of the same architectures, evaluated one after another in this process."""
    factory = build.Factory(raw)
    worker, lane = factory.accuracy(None), factory.lane(DEVICE)
    out = np.full((len(study.trials), len(study.objectives)), np.nan)
    for i, trial in enumerate(study.trials):
        evaluation, artifacts = worker.evaluate(EvaluateJob(trial.index, trial.row))
        (measured,) = lane.measure(MeasureJob(DEVICE, (trial.index,), (artifacts[DEVICE],)))
        assert not isinstance(measured, str), measured
        values = {**evaluation.metrics, **{f"{name}@{DEVICE}": m.value for name, m in measured.items()}}
        out[i] = [o.loss(values[o.name]) for o in study.objectives]
    return out


def search(nodes: Nodes, folder: Path, *, trials: int, seconds: float, every_s: float) -> list[str]:
    """Returns everything that was wrong."""
    raw = config(trials, search={"engine": "random", "trials": trials})
    plan = build.load_raw(raw, source="faults")
    storage = open_storage(None, folder / "study.log")
    study = Study(NAME, plan.space, objectives=plan.objectives, devices=plan.measured, storage=storage)
    RunFolder(folder).save_config(plan.config.to_dict())
    for _ in range(2):
        nodes.add()
    executor = RayExecutor(
        SlowFactory(build.Factory(plan.config.to_dict()), seconds),
        None,
        devices=[(DEVICE, False)],
        address=nodes.address,
        limits=Limits(retries=1, timeout_s=120.0),
    )
    started = time.monotonic()
    try:
        with ThreadPoolExecutor(1) as pool:
            run = Search(study, executor, plan.engine(()), folder=RunFolder(folder)).run
            n_lost = disturb(nodes, every_s, pool.submit(run, trials))
    finally:
        executor.close()
    took = time.monotonic() - started
    retried = sum("retries" in trial.attributes for trial in study.trials)
    print(f"{n_finished(study)} of {trials} trials finished in {took:.0f} s, {n_lost} nodes lost, {retried} retried")
    again = Study(NAME, plan.space, objectives=plan.objectives, devices=plan.measured, storage=storage)
    wrong = problems(None, folder)
    if n_finished(again) != trials or len(again.trials) != trials:
        errors = {t.error for t in again.trials if t.error}
        wrong.append(f"{n_finished(again)} distinct finished trials of {len(again.trials)}: {errors}")
    losses, quiet = again.history().losses, quiet_losses(plan.config.to_dict(), again)
    if not np.array_equal(losses, quiet):
        wrong.append("a quiet run gives other values for the same architectures")
    if not np.array_equal(pareto.front(losses), pareto.front(quiet)):
        wrong.append("a quiet run gives another front")
    print(
        f"a quiet run gives the same values: {np.array_equal(losses, quiet)}; {pareto.front(quiet).sum()} on the front"
    )
    return wrong


def left_over(mark: str) -> list[str]:
    """Returns processes that this script led to and that are still there, zombies included."""
    found = {child.pid: child for child in psutil.Process().children(recursive=True)}
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.pid != os.getpid():
                found[process.pid] = process
        except psutil.Error:
            continue
    return [f"{pid} {process.name()} {process.status()}" for pid, process in found.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", default="test-cluster", choices=["test-cluster", "namespaces"])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=1.5, help="of an evaluation")
    parser.add_argument("--every", type=float, default=20.0, help="seconds between two losses of a node")
    arguments = parser.parse_args()
    os.environ[MARK] = mark = uuid.uuid4().hex
    nodes: Nodes = TestCluster() if arguments.nodes == "test-cluster" else Namespaces()
    try:
        with tempfile.TemporaryDirectory() as folder:
            wrong = search(
                nodes,
                Path(folder),
                trials=arguments.trials,
                seconds=arguments.seconds,
                every_s=arguments.every,
            )
    finally:
        nodes.close()
    time.sleep(5.0)
    left = left_over(mark)
    print(f"processes left: {left or 'none'}")
    sys.exit("\n".join([*wrong, *left]) or None)


if __name__ == "__main__":
    main()
