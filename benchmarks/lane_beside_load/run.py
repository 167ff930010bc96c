"""Does a lane's latency change beside accuracy jobs on the other cores of its machine?

python -m benchmarks.lane_beside_load.run [--rounds 4] [--nets 3] [--lane-core 1]

One process, pinned to one core, times the same nets again and again by the run's own device; on every other core, a
process evaluates networks all the time (the digits quickstart's accuracy job), or is stopped. Quiet and loaded rounds
alternate, so that what else happens on the machine meets both alike. Both what a lane reports, which is normalised by
a reference net in the same round, and the plain milliseconds are compared.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import statistics
import time

import numpy as np
import torch

from hwsearch.build import load_raw
from hwsearch.distribution.jobs import EvaluateJob
from hwsearch.distribution.workers import NetworkWorker

RAW = {
    "name": "load",
    "supernet": {
        "family": "mobilenet",
        "params": {
            "stem": 16,
            "head": 64,
            "stages": [{"width": [16, 32], "depth": [1, 2], "kernel": [3, 5], "expand": [2, 4]}] * 2,
        },
    },
    "data": {"name": "digits", "size": 16},
    "training": {"epochs": 1},
    "objectives": ["accuracy", "latency_ms@cpu"],
    "devices": {"cpu": {"runtime": "onnxruntime", "threads": 1, "warmup": 3, "repeats": 30, "max_seconds": 0.5}},
}


def worker(exporters: bool) -> NetworkWorker:
    """Returns the run's accuracy worker."""
    made = load_raw(RAW, source="benchmark")
    names = {"cpu": made.exporter("cpu")} if exporters else {}
    return NetworkWorker(made.supernet(), made.dataset, exporters=names)


def load(core: int) -> None:
    """Evaluates on one core for ever."""
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    made, evaluator = load_raw(RAW, source="benchmark"), worker(exporters=False)
    row = made.space.row(made.space.largest())
    while True:
        evaluator.evaluate(EvaluateJob(0, row, artifacts=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--nets", type=int, default=3)
    parser.add_argument("--lane-core", type=int, default=1)
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0) - {options.lane_core})
    spawn = multiprocessing.get_context("spawn")
    loads = [spawn.Process(target=load, args=(core,), daemon=True) for core in cores]
    for process in loads:
        process.start()
    os.sched_setaffinity(0, {options.lane_core})
    made = load_raw(RAW, source="benchmark")
    rows = made.space.sample(options.nets, np.random.default_rng(0))
    maker = worker(exporters=True)
    artifacts = [maker.evaluate(EvaluateJob(i, row))[1]["cpu"] for i, row in enumerate(rows)]
    device = made.device("cpu")
    time.sleep(5.0)  # the others are up
    reported: dict[bool, list[list[float]]] = {False: [], True: []}
    raw: dict[bool, list[list[float]]] = {False: [], True: []}
    device.measure(artifacts)
    try:
        for number in range(2 * options.rounds):
            busy = bool(number % 2) ^ bool(number // 2 % 2)  # quiet, busy, busy, quiet, ...
            for process in loads:
                assert process.pid is not None
                assert process.is_alive()
                os.kill(process.pid, signal.SIGCONT if busy else signal.SIGSTOP)
            time.sleep(0.3)
            found = [result["latency_ms"] for result in device.measure(artifacts)]
            reported[busy].append([m.value for m in found])
            raw[busy].append([float(m.raw if m.raw is not None else m.value) for m in found])
    finally:
        for process in loads:
            process.kill()
    print("| what | quiet, ms | beside load, ms | difference per net | median |")
    print("|---|---|---|---|---|")
    for name, values in (("reported", reported), ("plain", raw)):
        medians = {b: [statistics.median(column) for column in zip(*values[b], strict=True)] for b in (False, True)}
        differences = [b / q - 1.0 for q, b in zip(medians[False], medians[True], strict=True)]
        shown = ", ".join(f"{d:+.1%}" for d in differences)
        quiet, beside = (", ".join(f"{v:.3f}" for v in medians[b]) for b in (False, True))
        print(f"| {name} | {quiet} | {beside} | {shown} | {statistics.median(differences):+.1%} |")


if __name__ == "__main__":
    main()
