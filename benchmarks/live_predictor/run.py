"""Is a predictor that `measure-for-predictor` made as good as measuring once? Small MobileNetV3 on ONNX Runtime, here.

python -m benchmarks.live_predictor.run --out DIR [--side 64] [--budget 60] [--test 40] [--passes 8] [--again]

1. `measure_for_predictor` measures chosen networks until its budget; no test network is among them but by chance.
2. Test networks, uniform over the space, are measured in several passes, each in another order and other groups.
3. Kendall tau to the mean of the passes: of the predictor, and of each single pass to the mean of the others; and how
   many labels are in 90 % intervals, also of a predictor of the same table that knows nothing of measuring runs.

DIR keeps the measurements; `--again` only computes the numbers from them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.stats import kendalltau

from benchmarks.measurement.nets import distinct, modules, one_thread, space
from hwsearch.commands.fit import fitted
from hwsearch.commands.measure_for_predictor import measure_for_predictor
from hwsearch.commands.recipe import recipe
from hwsearch.commands.space_source import open_space
from hwsearch.devices.base import DeviceSpec
from hwsearch.devices.onnxruntime_device import OnnxRuntimeDevice
from hwsearch.export.onnx_exporter import OnnxExporter
from hwsearch.importers.table import read_table
from predictors.base import Predictor
from search_spaces.supernet import Supernet

SETTINGS = {"runtime": "onnxruntime", "protocol": "fast", "repeats": 20, "max_seconds": 60.0}


def measure(folder: Path, supernet: Supernet, args: argparse.Namespace) -> None:
    """Measures for the predictor, and for the test as another session; what is in `folder` already is not repeated."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = distinct(supernet, args.test, seed=1)
    exporter = OnnxExporter()
    artifacts = [exporter.export(module, example, costs=costs) for module, example, costs in modules(supernet, rows)]
    raw = {
        "name": "small",
        "supernet": {"family": "ofa_mobilenet_v3", "params": {"resolutions": [args.side]}},
        "objectives": ["macs"],
        "devices": {"cpu": SETTINGS},
    }
    (folder / "net.yaml").write_text(yaml.safe_dump(raw))
    out = folder / "cpu.safetensors"
    if not out.exists():
        measure_for_predictor(str(folder / "net.yaml"), device="cpu", target_error=0.1, budget=args.budget, out=out)
    card = json.loads((folder / "cpu.measurements" / "card.json").read_text())
    settings = {"name": "cpu", **SETTINGS, "reference_ms": card["reference_ms"]}
    device = OnnxRuntimeDevice(DeviceSpec.model_validate(settings))
    passes = np.empty((args.passes, args.test))
    for i in range(args.passes):
        order = np.random.default_rng(i).permutation(args.test)
        for start in range(0, args.test, args.group):
            members = order[start : start + args.group]
            for j, result in zip(members, device.measure([artifacts[j] for j in members]), strict=True):
                passes[i, j] = result["latency_ms"].value
        np.savez(folder / "test.npz", rows=rows, passes=passes[: i + 1])


def tau(a: np.ndarray, b: np.ndarray) -> float:
    """Returns Kendall's tau."""
    return float(kendalltau(a, b).statistic)


def judged(predictor: Predictor, rows: np.ndarray, passes: np.ndarray) -> dict[str, Any]:
    """Returns how a predictor does on rows that were measured in several passes (passes, n)."""
    truth = passes.mean(axis=0)
    predicted = predictor.predict(rows)
    lower, upper = predictor.ends(predicted, 0.9)
    away = predicted.mean / truth - 1
    return {
        "tau": round(tau(predicted.mean, truth), 4),
        "MAPE": round(float(100 * np.mean(np.abs(away))), 2),
        "common error, %": round(float(100 * away.mean()), 2),
        "deviation of the rest, %": round(float(100 * away.std()), 2),
        "half width of intervals, %": round(float(50 * np.mean((upper - lower) / predicted.mean)), 2),
        "intervals cover averaged labels": round(float(np.mean((truth > lower) & (truth < upper))), 3),
        "intervals cover single labels": round(float(np.mean((passes > lower) & (passes < upper))), 3),
    }


def report(folder: Path, supernet: Supernet) -> dict[str, Any]:
    """Returns all numbers of the measurements in `folder`."""
    stored = np.load(folder / "test.npz")
    rows, passes = stored["rows"], stored["passes"]
    truth = passes.mean(axis=0)
    source = open_space(str(folder / "net.yaml"))
    table = read_table(folder / "cpu.measurements" / "table.csv", source.space, target="latency_ms")
    how = recipe(source, target="latency_ms")
    with_runs, without = (
        fitted(how, table.rows, table.values, stds=table.stds, unit="ms", curve=False, runs=runs)
        for runs in (table.runs, None)
    )
    single = [tau(passes[i], np.delete(passes, i, axis=0).mean(axis=0)) for i in range(len(passes))]
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "latency_ms range": [round(float(truth.min()), 3), round(float(truth.max()), 3)],
        "measured": len(table.rows),
        "passes": len(passes),
        "cross-validated MAPE": round(float(with_runs.to_dict()["report"]["mape"]), 2),
        "runs": with_runs.to_dict()["runs"],
        "predictor": judged(with_runs.predictor, rows, passes),
        "the same without runs": judged(without.predictor, rows, passes),
        "tau of one measurement, mean": round(float(np.mean(single)), 4),
        "tau of one measurement, least and most": [round(min(single), 4), round(max(single), 4)],
        "tau of MACs": round(tau(supernet.costs(rows).macs, truth), 4),
        "MAPE of one measurement": round(float(100 * np.mean(np.abs(passes / truth - 1))), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--budget", type=int, default=60)
    parser.add_argument("--test", type=int, default=40)
    parser.add_argument("--passes", type=int, default=8)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--again", action="store_true")
    args = parser.parse_args()
    one_thread()
    supernet = space(args.side)
    if not args.again:
        measure(args.out, supernet, args)
    print(json.dumps(report(args.out, supernet), indent=1))


if __name__ == "__main__":
    main()
