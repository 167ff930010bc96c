"""How long the report of a run of 10,000 trials takes to write, and how large it is.

python benchmarks/report/ten_thousand.py [N]
"""

from __future__ import annotations

import platform
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

from hwsearch import build
from hwsearch.commands.report import collect, open_study, report
from hwsearch.report.html.page import page
from hwsearch.results import Evaluation, Measurement
from hwsearch.runfolder import RunFolder
from hwsearch.study import Study, open_storage

CONFIG = {
    "name": "many",
    "supernet": {
        "family": "mlp",
        "params": {"input_shape": [1, 8, 8], "n_classes": 10, "hidden": [list(range(8, 72, 8))] * 4},
    },
    "sparsity": {"per": "layer", "choices": ["dense", "unstructured-0.5", "unstructured-0.8"]},
    "objectives": ["macs", "stored_bytes", "latency_ms@one"],
    "devices": {"one": {"runtime": "simulated"}},
    "executor": {"kind": "serial"},
}


def main() -> None:
    """Records made-up measurements of random architectures, then writes their report."""
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as name:
        folder = RunFolder(Path(name) if len(sys.argv) <= 2 else Path(sys.argv[2]))
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.config.write_text(yaml.safe_dump({"format_version": 1, **CONFIG}))
        plan = build.load_raw(CONFIG, source="this file")
        rng = np.random.default_rng(0)
        rows = np.unique(plan.space.sample(2 * n, rng), axis=0)
        rows = rows[rng.permutation(len(rows))[:n]]
        study = Study(
            "many",
            plan.space,
            objectives=plan.objectives,
            devices=plan.measured,
            storage=open_storage(None, folder.journal),
        )
        costs = plan.supernet(meta=True).costs(rows)
        for i in study.start(rows):
            study.record(i, Evaluation({k: float(v) for k, v in costs.metrics(i).items()}, 1.0))
            ms = (0.1 + 1e-5 * costs.macs[i]) * rng.lognormal(0, 0.02)
            study.record_measurement(i, "one", {"latency_ms": Measurement(ms, 0.02 * ms, "ms")})
        started = time.perf_counter()
        answer = report(folder.path)
        whole = time.perf_counter() - started
        read = open_study(plan, folder)
        started = time.perf_counter()
        page(collect(plan, read, folder), command="", written="")
        drawn = time.perf_counter() - started
        size = Path(answer["report"]).stat().st_size
        where = f"{platform.processor() or platform.machine()}, Python {platform.python_version()}"
        print(f"{len(rows)} trials: {whole:.1f} s from the disk, of these {drawn:.1f} s after reading the record")
        print(f"{size / 1e6:.2f} MB; {where}")
        if len(sys.argv) > 2:
            Path(sys.argv[2]).write_bytes(Path(answer["report"]).read_bytes())


if __name__ == "__main__":
    main()
