"""How busy one driver keeps 10 to 4,000 workers: real engines, loop and record, simulated workers.

python benchmarks/scale/run.py [--engines random nsga2 pareto] [--workers 10 100 1000 4000] [--seconds 30]

The mean share of workers that have work, between the end of the first job and the last proposal: how a run begins and
ends says nothing about the driver. Evaluation times are log-normal around --seconds, with the spread that evaluations
of the quickstart show (standard deviation of the logarithm 0.25).
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.overhead.run import OBJECTIVES, space_of_45_genes
from hwsearch.build.registry import search_engine
from hwsearch.distribution.jobs import EvaluateJob
from hwsearch.distribution.simulated import SimulatedExecutor
from hwsearch.loop import Search
from hwsearch.results import Artifact, Evaluation, SearchProgress
from hwsearch.runfolder import RunFolder
from hwsearch.study import Study, open_storage

MESSAGE_S = 0.0005
"""Driver time per message to or from a Ray worker, as measured by benchmarks/overhead on the same machine."""


def evaluate(job: EvaluateJob) -> tuple[Evaluation, dict[str, Artifact]]:
    """Returns two losses that pull against each other."""
    x = job.row.astype(float)
    weights = 1.0 + np.arange(len(x)) / len(x)
    metrics = {"accuracy": float(1.0 - np.exp(-(x * weights).sum() / 40.0)), "macs": float((x**1.5).sum())}
    return Evaluation(metrics, seconds=0.0), {}


class Utilisation:
    """Integrates the number of busy workers over virtual time, while the run is under way."""

    def __init__(self, executor: SimulatedExecutor) -> None:
        self.executor, self.last_s, self.sum_s, self.span_s = executor, 0.0, 0.0, 0.0

    def __call__(self, progress: SearchProgress) -> None:
        now = self.executor.elapsed_s
        if progress.n_done > 0 and progress.n_done + progress.n_running < progress.n_trials:
            self.sum_s += self.executor.n_busy * (now - self.last_s)
            self.span_s += now - self.last_s
        self.last_s = now


def one(engine: str, n_workers: int, *, seconds: float, per_worker: int, profile: bool) -> tuple[float, float, float]:
    """Returns the busy share, virtual and real seconds."""
    space, rng = space_of_45_genes(), np.random.default_rng(1)
    spread = 0.25
    executor = SimulatedExecutor(
        n_workers,
        evaluate=evaluate,
        duration_s=lambda job: float(seconds * np.exp(spread * rng.standard_normal() - spread**2 / 2)),
        message_s=MESSAGE_S,
    )
    with tempfile.TemporaryDirectory() as folder:
        storage = open_storage(None, Path(folder) / "journal.log")
        study = Study("scale", space, objectives=OBJECTIVES, storage=storage)
        made = search_engine(
            engine, {}, given={"space": space, "n_objectives": len(OBJECTIVES), "seed": 0, "exact": None}
        )
        watch = Utilisation(executor)
        started = time.perf_counter()
        profiler = cProfile.Profile()
        if profile:
            profiler.enable()
        trials = max(200, per_worker * n_workers)
        Search(study, executor, made, folder=RunFolder(Path(folder) / "run")).run(trials, observe=watch)
        if profile:
            profiler.disable()
            pstats.Stats(profiler).sort_stats("cumulative").print_stats(25)
        return watch.sum_s / (n_workers * watch.span_s), executor.elapsed_s, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", default=["random", "nsga2", "pareto"])
    parser.add_argument("--workers", nargs="+", type=int, default=[10, 100, 1000, 4000])
    parser.add_argument("--seconds", type=float, default=30.0, help="mean of an evaluation")
    parser.add_argument("--per-worker", type=int, default=4, help="trials per worker")
    parser.add_argument("--profile", action="store_true", help="print where the driver's time goes")
    arguments = parser.parse_args()
    print("| engine | workers | trials | busy | driver s per trial |\n|---|---|---|---|---|")
    for engine in arguments.engines:
        for n in arguments.workers:
            busy, _, real = one(
                engine, n, seconds=arguments.seconds, per_worker=arguments.per_worker, profile=arguments.profile
            )
            trials = max(200, arguments.per_worker * n)
            print(f"| {engine} | {n} | {trials} | {100 * busy:.1f} % | {real / trials:.4f} |", flush=True)


if __name__ == "__main__":
    main()
