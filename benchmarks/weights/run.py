"""Memory of accuracy workers that share one super-network: how much of it is their own, how much is shared.

python -m benchmarks.weights.run [--megabytes 30 400] [--workers 8]

Real Ray actors, carried by `RayExecutor`, each with the run's own `NetworkWorker`; every one extracts and scores a
subnet before its memory is read. USS is what only one process uses; of what several use, PSS is its share.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import time
from collections.abc import Mapping
from typing import Any

import psutil
import ray
from numpy.typing import NDArray

from hwsearch.build import Factory, load_raw
from hwsearch.distribution.jobs import Evaluated, EvaluateJob, Resources
from hwsearch.distribution.ray_executor import RayExecutor
from hwsearch.results import Artifact, Evaluation

INPUTS, CLASSES = 16, 3


def raw(megabytes: float) -> dict[str, Any]:
    """A run whose super-network has about so many megabytes: n * (16 + n + 3) weights of four bytes."""
    n = int(math.sqrt(megabytes * 1e6 / 4))
    return {
        "name": "weights",
        "supernet": {"family": "mlp", "params": {"hidden": [[64, n], [64, n]]}},
        "data": {"name": "synthetic", "shape": [1, 4, 4], "n_classes": CLASSES, "n": 60},
        "training": {"epochs": 1, "batch_size": 4},
        "objectives": ["accuracy", "macs"],
    }


class Reporting:
    """A worker that also says what memory its process has, and what the weights are that it sees."""

    def __init__(self, worker: Any, weights: Mapping[str, NDArray[Any]] | None) -> None:
        self.worker, self.weights = worker, weights

    def evaluate(self, job: EvaluateJob) -> tuple[Evaluation, dict[str, Artifact]]:
        evaluation, artifacts = self.worker.evaluate(job)
        memory = psutil.Process().memory_full_info()
        digest = hashlib.sha256()
        for _, array in sorted((self.weights or {}).items()):
            digest.update(array)
        time.sleep(2.0)  # so that each of the workers gets a job
        found = {"uss": memory.uss, "pss": memory.pss, "pid": os.getpid(), "sha256": digest.hexdigest()}
        return Evaluation(dict(evaluation.metrics), seconds=0.0, error=evaluation.error, attributes=found), artifacts


class ReportingFactory(Factory):
    """Makes such workers."""

    def accuracy(self, weights: dict[str, NDArray[Any]] | None) -> Any:
        return Reporting(super().accuracy(weights), weights)


def measure(megabytes: float, n_workers: int) -> None:
    """Prints one row."""
    config = raw(megabytes)
    made = load_raw(config, source="benchmark")
    arrays = made.supernet().to_arrays()
    size = sum(array.nbytes for array in arrays.values())
    before = hashlib.sha256()
    for _, array in sorted(arrays.items()):
        before.update(array)
    free = ray.available_resources()["object_store_memory"]
    factory = ReportingFactory(made.config.to_dict())
    executor = RayExecutor(factory, arrays, n_workers=n_workers, accuracy=Resources(cpus=0.2))
    seen: dict[int, dict[str, Any]] = {}
    row = made.space.row(made.space.smallest())
    try:
        index = 0
        until = time.monotonic() + 240
        while (len(seen) < n_workers or not executor.idle) and time.monotonic() < until:
            while executor.free > 0 and len(seen) < n_workers:
                executor.submit(EvaluateJob(index, row, artifacts=False))
                index += 1
            for result in executor.wait(1.0):
                assert isinstance(result, Evaluated)
                assert result.evaluation.error is None, result.evaluation.error
                found = dict(result.evaluation.attributes)
                seen[int(found["pid"])] = found
        used = free - ray.available_resources()["object_store_memory"]
    finally:
        executor.close()
    same = {found["sha256"] for found in seen.values()} == {before.hexdigest()}
    uss, pss = ([found[name] / 1e6 for found in seen.values()] for name in ("uss", "pss"))
    print(
        f"| {size / 1e6:.1f} | {len(seen)} | {used / 1e6:.0f} | {sum(uss) / len(uss):.0f} ({max(uss):.0f}) | "
        f"{sum(pss):.0f} | {len(seen) * size / 1e6:.0f} | {'yes' if same else 'NO'} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, nargs="+", default=[1, 30, 400])
    parser.add_argument("--workers", type=int, default=8)
    options = parser.parse_args()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=2**30)
    print("| weights, MB | workers | store, MB | USS of each, MB (largest) | PSS of all, MB | as copies | same |")
    print("|---|---|---|---|---|---|---|")
    for megabytes in options.megabytes:
        measure(megabytes, options.workers)


if __name__ == "__main__":
    main()
