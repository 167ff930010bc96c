"""Times ONNX files interleaved, on any host: needs only this file, timing.py, Python, NumPy and onnxruntime.

    python onnx_benchmark.py [--threads 1] reference.onnx a.onnx b.onnx ...

The first file is the reference. The last line printed is JSON: samples of every file in ms, and the environment.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

try:  # copied to another host, both files lie in one folder
    from timing import TimingPlan, tells_queued, time_interleaved  # type: ignore[import-not-found,unused-ignore]
except ImportError:
    from hwsearch.devices.timing import TimingPlan, tells_queued, time_interleaved


def main(arguments: list[str] | None = None) -> None:
    """Measures the files named on the command line and prints the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--clock", choices=("running", "wall", "cpu"), default="running")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--max-seconds", type=float, default=5.0)
    parser.add_argument("--target-ci", type=float, default=0.03)
    parser.add_argument("files", nargs="+")
    args = parser.parse_args(arguments)
    # The reference's batch is fixed in its file.
    calls = [_open(path, args.threads, args.batch if i else 1) for i, path in enumerate(args.files)]
    plan = TimingPlan(
        warmup=args.warmup,
        repeats=args.repeats,
        max_seconds=args.max_seconds,
        target_ci=args.target_ci,
        # With several threads it is not known for how long the slowest waited for a core.
        clock="wall" if args.clock == "running" and (args.threads > 1 or not tells_queued()) else args.clock,
    )
    result = time_interleaved({str(i): call for i, call in enumerate(calls[1:])}, calls[0], plan=plan)
    timings = [result.reference, *result.candidates.values()]
    print(
        json.dumps(
            {
                "samples_ms": [t.samples_ms.tolist() for t in timings],
                "environment": {
                    "runtime_version": ort.__version__,
                    "clock": plan.clock,
                    "cpu_model": _cpu_model(),
                    "architecture": platform.machine(),
                    "python": platform.python_version(),
                },
            }
        )
    )


def _open(path: str, threads: int, batch: int):  # type: ignore[no-untyped-def]
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    feeds = {}
    for node in session.get_inputs():
        shape = [size if isinstance(size, int) else batch for size in node.shape]
        kind = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32}[node.type]
        values = rng.standard_normal(shape) if kind is np.float32 else np.zeros(shape)
        feeds[node.name] = values.astype(kind)
    return lambda: session.run(None, feeds)


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.split(":")[0].strip() in ("model name", "Model", "Hardware"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    try:
        main()
    except Exception as error:  # one line for the host that asked
        print(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", file=sys.stderr)
        sys.exit(1)
