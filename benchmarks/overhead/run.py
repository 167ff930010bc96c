"""What the machinery costs: engine time per proposal, record time per trial, Ray against serial per trial.

python benchmarks/overhead/run.py [--trials 200]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hwsearch.distribution.executor import Executor
from hwsearch.distribution.jobs import EvaluateJob
from hwsearch.distribution.ray_executor import RayExecutor
from hwsearch.distribution.serial import SerialExecutor
from hwsearch.engines.base import SearchEngine
from hwsearch.engines.nsga2 import NSGA2
from hwsearch.engines.random_search import RandomSearch
from hwsearch.loop import Search
from hwsearch.objectives import Objective
from hwsearch.results import Artifact, Evaluation, History
from hwsearch.runfolder import RunFolder
from hwsearch.study import Study, open_storage
from search_spaces.genes import Condition, Gene
from search_spaces.space import SearchSpace

OBJECTIVES = (Objective("accuracy", direction="maximize"), Objective("macs"))


def space_of_45_genes() -> SearchSpace:
    """Returns a space shaped like Once-for-All's MobileNetV3: 5 depths, 20 kernels, 20 expansions."""
    genes = [Gene(f"depth{s}", (2, 3, 4)) for s in range(5)]
    for s in range(5):
        for b in range(4):
            when = () if b < 2 else (Condition(f"depth{s}", tuple(d for d in (2, 3, 4) if d > b)),)
            genes += [Gene(f"k{s}{b}", (3, 5, 7), when), Gene(f"e{s}{b}", (3, 4, 6), when)]
    return SearchSpace(genes)


class Sleeper:
    """Evaluates by sleeping."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def evaluate(self, job: EvaluateJob) -> tuple[Evaluation, dict[str, Artifact]]:
        time.sleep(self.seconds)
        metrics = {"accuracy": float(job.row.mean()), "macs": float(job.row.sum())}
        return Evaluation(metrics, seconds=self.seconds), {}


@dataclass(frozen=True)
class SleeperFactory:
    """Makes sleepers."""

    seconds: float

    def accuracy(self, weights: dict[str, Any] | None) -> Sleeper:
        return Sleeper(self.seconds)

    def lane(self, device: str) -> Any:
        raise NotImplementedError


def engine_seconds(space: SearchSpace, engine: SearchEngine, n: int, repeats: int = 7) -> float:
    """Returns CPU seconds of one proposal after `n` trials."""
    rng = np.random.default_rng(0)
    rows = np.unique(space.sample(n + 200, rng), axis=0)[:n]
    history = History.of(rows, np.stack([rows.mean(1), -rows.std(1)], axis=1))
    times = []
    for _ in range(repeats):
        started = time.process_time()
        engine.propose(history, 1)
        times.append(time.process_time() - started)
    return statistics.median(times)


def search_seconds(space: SearchSpace, executor: Executor, trials: int) -> tuple[float, float]:
    """Returns wall seconds of a whole search, workers already up, and CPU seconds of the driver's process."""
    with tempfile.TemporaryDirectory() as folder:
        study = Study("bench", space, objectives=OBJECTIVES, storage=open_storage(None, Path(folder) / "study.log"))
        search = Search(study, executor, RandomSearch(space, n_objectives=2), folder=RunFolder(Path(folder)))
        search.run(min(8, trials))  # every worker has answered once
        started, cpu = time.perf_counter(), time.process_time()
        search.run(trials + len(study.trials))
        return time.perf_counter() - started, time.process_time() - cpu


def on_ray(space: SearchSpace, trials: int, seconds: float) -> None:
    """Prints the throughput of two workers whose evaluations take so long."""
    executor = RayExecutor(SleeperFactory(seconds), None, n_workers=2)
    try:
        took, cpu = search_seconds(space, executor, trials)
    finally:
        executor.close()
    ideal = trials * seconds / 2
    print(
        f"ray, 2 workers: {1e3 * (took - ideal) / trials:.2f} ms over half the evaluation per trial; "
        f"{100 * ideal / took:.0f} % of the ideal throughput; {1e3 * cpu / trials:.2f} ms of the driver's CPU per trial"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--no-executors", action="store_true", help="engine and record alone")
    parser.add_argument("--only-ray", action="store_true", help="the throughput on two workers alone")
    parser.add_argument("--evaluation-ms", type=float, default=50.0)
    args = parser.parse_args()
    space = space_of_45_genes()
    if args.only_ray:
        on_ray(space, args.trials, args.evaluation_ms / 1e3)
        return
    print(f"space: {space.n_genes} genes, {space.size():.3g} architectures")
    for name, engine in (("random", RandomSearch(space, n_objectives=2)), ("nsga2", NSGA2(space, n_objectives=2))):
        for n in (1_000, 10_000):
            print(f"{name}: {1e3 * engine_seconds(space, engine, n):.2f} ms of CPU per proposal at {n:,} trials")
    with tempfile.TemporaryDirectory() as folder:
        study = Study("bench", space, objectives=OBJECTIVES, storage=open_storage(None, Path(folder) / "study.log"))
        times = []
        for row in np.unique(space.sample(300, np.random.default_rng(1)), axis=0):
            (index,) = study.start(row[None])
            started = time.process_time()
            study.record(index, Evaluation({"accuracy": 0.5, "macs": 1.0}, seconds=0.0))
            times.append(time.process_time() - started)
        print(f"record: {1e3 * statistics.median(times):.2f} ms of CPU per trial, besides waiting for the disk")
    if args.no_executors:
        return
    seconds = args.evaluation_ms / 1e3
    factory = SleeperFactory(seconds)
    serial, _ = search_seconds(space, SerialExecutor(factory, None), args.trials)
    print(f"serial: {1e3 * (serial / args.trials - seconds):.2f} ms over the evaluation per trial")
    on_ray(space, args.trials, seconds)


if __name__ == "__main__":
    main()
