"""Single 1x1 layers: native dense, sparse and grouped forms beside ONNX Runtime's dense operator.

Native kernels run in their own layout, as within a net. ONNX Runtime's time is that of a net of one convolution, less
that of a net of one product of two numbers (what a call costs): where
it reorders channels for its blocked kernels, that is part of it; `--nets` gives both sides their conversions.
Ratios are medians over rounds; in brackets those of the least times, which others on the host disturb less.

python benchmarks/native/layers.py [--rounds 40] [--nets]
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from timing import interleaved, machine, onnxruntime_call, repeated
from torch import nn

from hwsearch.native.exporter import NativeExporter, open_artifact
from hwsearch.native.targets import best_target, padded
from hwsearch.native.tuning import Tuner

SHAPES = ((96, 576, 14), (576, 96, 14), (40, 240, 28), (240, 40, 28), (160, 960, 7), (960, 160, 7))


def layer(inputs: int, outputs: int, sparsity: float, rows: int) -> nn.Conv2d:
    torch.manual_seed(0)
    conv = nn.Conv2d(inputs, outputs, 1)
    keep = torch.rand(-(-outputs // rows), inputs) >= sparsity
    with torch.no_grad():
        conv.weight.mul_(keep.repeat_interleave(rows, 0)[:outputs, :, None, None])
    return conv.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--nets", action="store_true", help="time nets of one layer, with conversions of layout")
    arguments = parser.parse_args()
    tuner = Tuner(best_target())
    torch.set_num_threads(1)
    print(machine())
    nothing = onnxruntime_call(layer(1, 1, 0.0, 1), torch.randn(1, 1, 1, 1))
    variants = [(0.0, 1), (0.3, 4), (0.5, 4), (0.5, 1), (0.7, 1), (0.8, 1), (0.9, 1)]
    heads = [f"{100 * s:.0f} %" + (f" x{r}" if r > 1 else "") for s, r in variants]
    print("| layer | onnxruntime GFLOP/s | " + " | ".join(heads) + " | at 80 %: GFLOP/s |")
    print("|---" * (len(heads) + 3) + "|")
    for inputs, outputs, side in SHAPES:
        example = torch.randn(1, inputs, side, side)
        calls = {
            "dense": repeated(onnxruntime_call(layer(inputs, outputs, 0.0, 1), example)),
            "none": repeated(nothing),
        }
        for sparsity, rows in variants:
            made = layer(inputs, outputs, sparsity, rows)
            if arguments.nets:
                artifact = NativeExporter().export(made, (example,), costs={})
                calls[f"{sparsity}/{rows}"] = repeated(open_artifact(artifact).bound(example.numpy()))
                continue
            weight = made.weight.detach().numpy().reshape(outputs, inputs)
            stride = padded(side * side, tuner.target.vector)
            form = tuner(weight, stride)
            calls[f"{sparsity}/{rows}"] = tuner.bound(weight, stride=stride, form=form)
        times = interleaved(calls, rounds=arguments.rounds)
        flops = 2.0 * inputs * outputs * side * side
        base = times.pop("dense") - np.median(times.pop("none"))
        cells = [f"{np.median(base / values):.2f} ({base.min() / values.min():.2f})" for values in times.values()]
        rate = flops / np.median(base) / 1e6, flops / base.min() / 1e6
        reached = 0.2 * flops / np.median(times["0.8/1"]) / 1e6, 0.2 * flops / times["0.8/1"].min() / 1e6
        name = f"{inputs} -> {outputs}, {side} x {side}"
        print(
            f"| {name} | {rate[0]:.0f} ({rate[1]:.0f}) | "
            + " | ".join(cells)
            + f" | {reached[0]:.0f} ({reached[1]:.0f}) |"
        )


if __name__ == "__main__":
    main()
