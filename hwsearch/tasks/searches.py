"""Many searches on one task, one per seed, in parallel processes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwsearch.engines.base import SearchEngine
from hwsearch.tasks.simulate import Trajectory, simulate
from hwsearch.tasks.task import Task

MakeEngine = Callable[[Task, int], SearchEngine]
"""(task, seed) -> engine; picklable where there are several processes."""


@dataclass(frozen=True)
class Conditions:
    """How evaluations go on; see `simulate`."""

    trials: int
    batch: int = 1
    in_flight: int = 0
    noise: NDArray[np.float64] | None = None

    def search(self, task: Task, make: MakeEngine, seed: int) -> Trajectory:
        """Returns one search."""
        return simulate(
            task,
            make(task, seed),
            trials=self.trials,
            batch=self.batch,
            in_flight=self.in_flight,
            noise=self.noise,
            seed=seed,
        )


def searches(
    task: Task,
    make: MakeEngine,
    seeds: Sequence[int],
    conditions: Conditions,
    *,
    processes: int = 1,
    observe: Callable[[int], None] | None = None,
) -> list[Trajectory]:
    """Returns one search per seed, in the seeds' order; the number of processes changes nothing but the time.

    Args:
        task: picklable if there are several processes.
        make: makes the engine of a seed.
        seeds: of the searches.
        conditions: of all of them.
        processes: at least 1.
        observe: called with the number of searches that are done.
    """
    found: list[Trajectory] = []
    if processes == 1:
        for seed in seeds:
            found.append(conditions.search(task, make, seed))
            if observe is not None:
                observe(len(found))
        return found
    # One thread each: more would only stand in each other's way. Spawned processes read this when they load NumPy.
    threads = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    os.environ.update(dict.fromkeys(threads, "1"))
    try:
        with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
            for result in pool.map(conditions.search, [task] * len(seeds), [make] * len(seeds), seeds):
                found.append(result)
                if observe is not None:
                    observe(len(found))
    finally:
        for name, value in threads.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
    return found
