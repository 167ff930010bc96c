"""Test-retest of the default protocol: stratified MobileNetV3 subnets, each measured twice, in other groups and order.

python -m benchmarks.measurement.repeatability [--runtime onnxruntime] [--n 30] [--side 128] [--group 6] [--clock wall]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau

from benchmarks.measurement.nets import modules, one_thread, space, stratified
from hwsearch.devices.base import Device, DeviceSpec
from hwsearch.devices.onnxruntime_device import OnnxRuntimeDevice
from hwsearch.devices.timed import TimedDevice
from hwsearch.devices.timing import TimingResult
from hwsearch.export.base import Exporter
from hwsearch.export.onnx_exporter import OnnxExporter
from hwsearch.results import Artifact


def make(runtime: str, spec: DeviceSpec) -> tuple[Device, Exporter]:
    if runtime == "openvino":
        from hwsearch.devices.openvino_device import OpenVinoDevice
        from hwsearch.export.openvino_exporter import OpenVinoExporter

        return OpenVinoDevice(spec), OpenVinoExporter()
    return OnnxRuntimeDevice(spec), OnnxExporter()


def recorded(device: Device) -> list[dict[str, object]]:
    """Returns a list that gets the samples of every measuring run from now on."""
    runs: list[dict[str, object]] = []
    if isinstance(device, TimedDevice):
        original = device._time

        def keep(artifacts: Sequence[Artifact]) -> TimingResult:
            result = original(artifacts)
            nets = {"reference": result.reference, **result.candidates}
            clocks = ("samples_ms", "wall_ms", "cpu_ms")
            runs.append({name: {clock: getattr(t, clock) for clock in clocks} for name, t in nets.items()})
            return result

        device._time = keep  # type: ignore[method-assign]
    return runs


def measure(device: Device, artifacts: list[Artifact], order: np.ndarray, group: int) -> dict[str, np.ndarray]:
    """Returns value, half-width, raw, repeats and drift per artifact, in the order of the artifacts."""
    found: dict[str, np.ndarray] = {}
    for start in range(0, len(order), group):
        members = order[start : start + group]
        for i, result in zip(members, device.measure([artifacts[i] for i in members]), strict=True):
            m = result["latency_ms"]
            row = {
                "value": m.value,
                "half_width": m.environment["half_width_ms"],
                "raw": m.raw,
                "repeats": m.repeats,
                "reference": m.environment["reference_ms"],
                "cpu": m.environment["cpu_ms"],
                "between": m.environment["between_runs_std"],
            }
            for key, number in row.items():
                found.setdefault(key, np.zeros(len(order)))[i] = number
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--n", type=int, default=30)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--group", type=int, default=6)
    parser.add_argument("--clock", default="running")
    parser.add_argument("--max-seconds", type=float, default=5.0)
    parser.add_argument("--save", help="write the two passes and the samples of every group here (JSON)")
    args = parser.parse_args()
    one_thread()
    loaded = os.getloadavg()[0]
    supernet = space(args.side)
    rows = stratified(supernet, args.n, seed=0)
    spec = DeviceSpec.model_validate(
        {"name": "cpu", "runtime": args.runtime, "clock": args.clock, "max_seconds": args.max_seconds}
    )
    device, exporter = make(args.runtime, spec)
    artifacts = [exporter.export(module, example, costs=costs) for module, example, costs in modules(supernet, rows)]
    device.measure(artifacts[:1])  # fixes the reference
    runs = recorded(device) if args.save else []
    passes, seconds = [], []
    for seed in (1, 2):
        started = time.perf_counter()
        order = np.random.default_rng(seed).permutation(len(artifacts))
        passes.append(measure(device, artifacts, order, args.group))
        seconds.append(time.perf_counter() - started)
    one, two = passes
    if args.save:
        Path(args.save).write_text(json.dumps({"passes": passes, "runs": runs}, default=np.ndarray.tolist))
    inside = np.abs(one["value"] - two["value"]) < np.hypot(one["half_width"], two["half_width"])
    report = {
        "runtime": args.runtime,
        "clock": args.clock,
        "n": len(artifacts),
        "slowest / fastest": round(float(one["value"].max() / one["value"].min()), 2),
        "latency_ms range": [round(float(f(one["value"])), 2) for f in (np.min, np.max)],
        "tau of values": round(float(kendalltau(one["value"], two["value"])[0]), 3),
        "tau of raw medians": round(float(kendalltau(one["raw"], two["raw"])[0]), 3),
        "values inside sqrt(h1^2 + h2^2)": round(float(inside.mean()), 3),
        "half-width / value, quartiles": np.percentile(
            np.concatenate([p["half_width"] / p["value"] for p in passes]), [25, 50, 75]
        )
        .round(4)
        .tolist(),
        "difference / value, quartiles": np.percentile(np.abs(one["value"] / two["value"] - 1), [25, 50, 75])
        .round(4)
        .tolist(),
        "raw difference / value, quartiles": np.percentile(np.abs(one["raw"] / two["raw"] - 1), [25, 50, 75])
        .round(4)
        .tolist(),
        "repeats, median": float(np.median(one["repeats"])),
        "reference_ms range": [
            round(float(f(np.concatenate([p["reference"] for p in passes]))), 3) for f in (np.min, np.max)
        ],
        "load average at the start and the end": [round(loaded, 1), round(os.getloadavg()[0], 1)],
        "between_runs_std": round(float(two["between"].max()), 4),
        "seconds per pass": [round(s) for s in seconds],
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
