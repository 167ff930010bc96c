"""Peak memory of one ONNX file in a process of its own: needs only Python, NumPy and onnxruntime, on Linux.

    python onnx_memory.py model.onnx THREADS name=1x3x224x224 ...

Prints the bytes by which the resident memory grew at most, from before the file was opened to after three runs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident(field: str) -> int:
    """Returns `VmRSS` (now) or `VmHWM` (peak) in bytes."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise OSError(f"{STATUS} has no {field}")


def main(path: str, threads: int, inputs: list[str]) -> None:
    """Opens the file, runs it and prints the growth."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    shapes = dict(entry.split("=") for entry in inputs)
    before = resident("VmRSS")
    CLEAR.write_text("5")  # the peak counts from here
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32}
    feeds = {
        node.name: np.zeros([int(size) for size in shapes[node.name].split("x")], kinds[node.type])
        for node in session.get_inputs()
    }
    for _ in range(3):
        session.run(None, feeds)
    print(resident("VmHWM") - before)


if __name__ == "__main__":
    try:
        main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
    except Exception as error:  # one line for the process that asked
        print(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", file=sys.stderr)
        sys.exit(1)
