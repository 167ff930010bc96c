"""How many distinct MobileNetV3 subnets a minute are exported, loaded and measured with the `fast` protocol.

python -m benchmarks.measurement.loop [--n 60] [--side 128] [--group 8]
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict

import numpy as np
import torch

from benchmarks.measurement.nets import distinct, modules, one_thread, space
from hwsearch.devices.base import DeviceSpec
from hwsearch.devices.onnxruntime_device import OnnxRuntimeDevice
from hwsearch.export.onnx_exporter import OnnxExporter
from hwsearch.export.verify import compare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=60)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--group", type=int, default=8, help="artifacts measured together")
    parser.add_argument("--check", type=int, default=10, help="every so many artifacts is compared with its module")
    args = parser.parse_args()
    one_thread()
    supernet = space(args.side)
    rows = distinct(supernet, args.n, seed=1)
    device = OnnxRuntimeDevice(DeviceSpec(name="cpu", protocol="fast", repeats=20, max_seconds=60))
    exporter = OnnxExporter()
    wall: dict[str, float] = defaultdict(float)
    cpu: dict[str, float] = defaultdict(float)
    results, errors, pending = [], [], []

    def timed(name: str, call):  # type: ignore[no-untyped-def]
        wall_start, cpu_start = time.perf_counter(), time.process_time()
        out = call()
        cpu[name] += time.process_time() - cpu_start
        wall[name] += time.perf_counter() - wall_start
        return out

    device.measure([exporter.export(*next(modules(supernet, rows[:1]))[:2], costs={})])  # imports and the reference
    source = modules(supernet, rows)
    for i in range(len(rows)):
        module, example, costs = timed("extract", lambda: next(source))
        artifact = timed("export", lambda: exporter.export(module, example, costs=costs))  # noqa: B023
        if i % args.check == 0:
            x = (torch.randn(2, 3, args.side, args.side),)
            errors.append(timed("check", lambda: compare(module, artifact, exporter, batches=[x])).max_rel_error)  # noqa: B023
        pending.append(artifact)
        if len(pending) == args.group or i == len(rows) - 1:
            results += timed("load and measure", lambda: device.measure(pending))
            pending.clear()
    values = np.array([r["latency_ms"].value for r in results])
    raw = np.array([r["latency_ms"].raw for r in results])
    halves = np.array([r["latency_ms"].environment["half_width_ms"] for r in results]) / values
    counted = ("export", "load and measure")
    report = {
        "n": len(rows),
        "latency_ms quartiles": np.percentile(values, [0, 25, 50, 75, 100]).round(2).tolist(),
        "raw quartiles": np.percentile(raw, [0, 25, 50, 75, 100]).round(2).tolist(),
        "half-width / value, median": round(float(np.median(halves)), 4),
        "largest error against the module": max(errors),
        "ms per net, wall": {k: round(1000 * v / len(rows), 1) for k, v in wall.items()},
        "ms per net, CPU": {k: round(1000 * v / len(rows), 1) for k, v in cpu.items()},
        "nets per minute, wall": round(60 * len(rows) / sum(wall[k] for k in counted), 1),
        "nets per minute, CPU": round(60 * len(rows) / sum(cpu[k] for k in counted), 1),
        "nets per minute with extract and checks, CPU": round(60 * len(rows) / sum(cpu.values()), 1),
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
