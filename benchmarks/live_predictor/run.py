"""Is a predictor that `measure-for-predictor` made as good as measuring once? Small MobileNetV3 on ONNX Runtime, here.

python -m benchmarks.live_predictor.run [--side 64] [--budget 60] [--test 40] [--passes 8]

1. `measure_for_predictor` measures chosen networks until its budget; no test network is among them but by chance.
2. Test networks, uniform over the space, are measured in several passes, each in another order and other groups.
3. Kendall tau to the mean of the passes: of the predictor, and of each single pass to the mean of the others.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml
from scipy.stats import kendalltau

from benchmarks.measurement.nets import distinct, modules, one_thread, space
from hwsearch.commands.measure_for_predictor import Progress, measure_for_predictor
from hwsearch.devices.base import DeviceSpec
from hwsearch.devices.onnxruntime_device import OnnxRuntimeDevice
from hwsearch.export.onnx_exporter import OnnxExporter
from predictors.base import Sources
from predictors.files import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--budget", type=int, default=60)
    parser.add_argument("--test", type=int, default=40)
    parser.add_argument("--passes", type=int, default=8)
    parser.add_argument("--group", type=int, default=8)
    args = parser.parse_args()
    one_thread()
    settings = {"runtime": "onnxruntime", "protocol": "fast", "repeats": 20, "max_seconds": 60.0}
    supernet = space(args.side)
    progress: list[Progress] = []
    with tempfile.TemporaryDirectory() as name:
        config, out = Path(name) / "net.yaml", Path(name) / "cpu.safetensors"
        raw = {
            "name": "small",
            "supernet": {"family": "ofa_mobilenet_v3", "params": {"resolutions": [args.side]}},
            "objectives": ["macs"],
            "devices": {"cpu": settings},
        }
        config.write_text(yaml.safe_dump(raw))
        started = time.perf_counter()
        answer = measure_for_predictor(
            str(config), device="cpu", target_error=0.1, budget=args.budget, out=out, observe=progress.append
        )
        loop_s = time.perf_counter() - started
        card = json.loads((out.with_suffix(".measurements") / "card.json").read_text())
        predictor = load(out, space=supernet.space, sources=Sources(layers=supernet.layers)).predictor
    rows = distinct(supernet, args.test, seed=1)
    predicted = predictor.predict(rows)
    exporter = OnnxExporter()
    artifacts = [exporter.export(module, example, costs=costs) for module, example, costs in modules(supernet, rows)]
    spec = DeviceSpec.model_validate({"name": "cpu", **settings, "reference_ms": card["reference_ms"]})
    device = OnnxRuntimeDevice(spec)
    passes = np.empty((args.passes, args.test))
    started = time.perf_counter()
    for i in range(args.passes):
        order = np.random.default_rng(i).permutation(args.test)
        for start in range(0, args.test, args.group):
            members = order[start : start + args.group]
            for j, result in zip(members, device.measure([artifacts[j] for j in members]), strict=True):
                passes[i, j] = result["latency_ms"].value
    test_s = time.perf_counter() - started
    truth = passes.mean(axis=0)

    def tau(a: np.ndarray, b: np.ndarray) -> float:
        return float(kendalltau(a, b).statistic)

    single = [tau(passes[i], np.delete(passes, i, axis=0).mean(axis=0)) for i in range(args.passes)]
    lower, upper = predictor.ends(predicted, 0.9)
    report = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "side": args.side,
        "latency_ms range": [round(float(truth.min()), 3), round(float(truth.max()), 3)],
        "measured": answer["n_rows"],
        "cross-validated MAPE by rows": {p.measured: round(p.error, 2) for p in progress if p.error is not None},
        "tau of the predictor": round(tau(predicted.mean, truth), 4),
        "tau of one measurement, mean": round(float(np.mean(single)), 4),
        "tau of one measurement, least and most": [round(min(single), 4), round(max(single), 4)],
        "tau of MACs": round(tau(supernet.costs(rows).macs, truth), 4),
        "MAPE of the predictor": round(float(100 * np.mean(np.abs(predicted.mean / truth - 1))), 2),
        "MAPE of one measurement": round(float(100 * np.mean(np.abs(passes / truth - 1))), 2),
        "90 % intervals cover a single measurement": round(float(np.mean((passes > lower) & (passes < upper))), 3),
        "seconds": {"loop": round(loop_s), "test measurements": round(test_s)},
        "parts": answer["parts"],
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
