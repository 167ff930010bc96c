"""Whole nets: native code with random zeros beside dense ONNX Runtime and OpenVINO, interleaved in one process.

python benchmarks/native/whole_nets.py [--net mobilenet|encoder] [--rounds 30]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from nets import encoder, masked, mobilenet_v3
from timing import interleaved, machine, onnxruntime_call, onnxruntime_int8_call, openvino_call, repeated

from hwsearch.native.exporter import NativeExporter, open_artifact


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--net", choices=["mobilenet", "encoder"], default="mobilenet")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--int8", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.net == "mobilenet":
        make, example = mobilenet_v3, torch.randn(1, 3, 224, 224)
    else:
        make, example = encoder, torch.randn(1, 128, 768)
    dense = masked(make, 0.0)
    calls = {"onnxruntime dense": onnxruntime_call(dense, example), "openvino dense": openvino_call(dense, example)}
    if arguments.int8:
        calls["onnxruntime int8 dense"] = onnxruntime_int8_call(dense, example)
        calls["openvino int8 dense"] = openvino_call(dense, example, precision="int8")
    variants = [(0.0, 1), (0.5, 1), (0.5, 4), (0.7, 1), (0.8, 1), (0.9, 1), (0.95, 1)]
    for sparsity, rows in variants:
        module = masked(make, sparsity, rows=rows)
        begin = time.perf_counter(), time.process_time()
        artifact = NativeExporter().export(module, (example,), costs={})
        seconds = time.perf_counter() - begin[0], time.process_time() - begin[1]
        library = open_artifact(artifact)
        with torch.no_grad():
            want = module(example).numpy()
        error = np.abs(library.run(example.numpy()) - want).max() / max(1.0, np.abs(want).max())
        name = f"native {100 * sparsity:.0f} %" + (f" in groups of {rows}" if rows > 1 else "")
        print(
            f"{name}: exported in {seconds[0]:.1f} s (CPU without the compiler: {seconds[1]:.1f} s), error {error:.1e}"
        )
        calls[name] = library.bound(example.numpy())
    times = interleaved({name: repeated(call) for name, call in calls.items()}, rounds=arguments.rounds)
    fastest = np.minimum(times["onnxruntime dense"], times["openvino dense"])
    print(machine())
    print("| | ms | over onnxruntime | over the faster dense engine |\n|---|---|---|---|")
    for name, values in times.items():
        own = np.median(times["onnxruntime dense"] / values), np.median(fastest / values)
        print(f"| {name} | {np.median(values):.2f} | {own[0]:.2f} | {own[1]:.2f} |")


if __name__ == "__main__":
    main()
