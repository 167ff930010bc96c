"""Capability cards of the engines on this machine, and what a search would drop because of them.

python -m benchmarks.measurement.profiles [--runtimes onnxruntime openvino litert] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import time
from datetime import date
from pathlib import Path

from benchmarks.measurement.nets import one_thread
from hwsearch.build import registry
from hwsearch.devices.base import DeviceSpec
from hwsearch.devices.card import decide
from hwsearch.devices.profile import PATTERNS, profile, profiling_spec
from hwsearch.objectives import Objective

PRECISIONS = {"onnxruntime": ("fp32", "int8", "int8-dynamic"), "openvino": ("fp32", "int8", "bf16")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runtimes", nargs="+", default=["onnxruntime", "openvino", "litert"])
    parser.add_argument("--max-seconds", type=float, default=5.0)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    one_thread()
    accuracy = Objective("accuracy", direction="maximize")
    for runtime in args.runtimes:
        kind = registry.named("devices", runtime, "runtime")
        spec = DeviceSpec(name=runtime, runtime=runtime, precisions=PRECISIONS.get(runtime, ("fp32",)))
        spec = profiling_spec(spec).model_copy(update={"max_seconds": args.max_seconds})
        try:
            device = kind(spec)
        except RuntimeError as error:  # a CPU without bf16
            print(f"{runtime}: {error}")
            device = kind(spec.model_copy(update={"precisions": tuple(p for p in spec.precisions if p != "bf16")}))
        exporter = registry.named("exporters", kind.opens(spec)[0], "exporter")()
        started = time.perf_counter()
        card = profile(device, exporter, created=date.today().isoformat(), side=args.side)
        print(card.table(), flush=True)
        print(f"{time.perf_counter() - started:.0f} s\n")
        if args.out is not None:
            args.out.mkdir(parents=True, exist_ok=True)
            (args.out / f"{runtime}.card.json").write_text(card.to_json())
        latency = Objective("latency_ms", device=runtime)
        cards = {runtime: card}
        for group, choices in (("sparsity", PATTERNS), ("precision", spec.precisions[1:])):
            for decision in decide(choices, group=group, objectives=[accuracy, latency], cards=cards):
                print(f"{decision.choice}: {'kept' if decision.kept else 'dropped'}: {decision.reason}")
        print()


if __name__ == "__main__":
    main()
