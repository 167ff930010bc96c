"""Do sparse nets dominate the dense ones of a run? Scores dense nets of its space on the hold-out and times them anew.

Every dense net and every net of the run's front is timed in the same rounds on the run's native device. Dense nets: the
front's own without their zeros, the smallest, the largest, and random ones, all with the super-network's weights.

python benchmarks/native/dominance.py runs/native --device c_code [--dense 30]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import numpy as np
from timing import machine

from hwsearch import build
from hwsearch.commands.small_dense import SmallDense, dense_rows
from hwsearch.config import RunConfig
from hwsearch.distribution.jobs import EvaluateJob
from hwsearch.front import load_front
from hwsearch.runfolder import RunFolder


@dataclass(frozen=True)
class Net:
    """One net: accuracy on n hold-out examples, latency and the half width of its 95 % interval."""

    name: str
    accuracy: float
    latency_ms: float
    half_width_ms: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--device", default="c_code")
    parser.add_argument("--dense", type=int, default=30, help="random dense nets")
    arguments = parser.parse_args()
    folder = RunFolder(arguments.run)
    stored = {key: value for key, value in folder.load_config().items() if key != "format_version"}
    plan = build.plan(RunConfig.model_validate(stored), source=str(arguments.run))
    assert plan.dataset is not None
    worker = SmallDense(plan, folder).worker
    space, members = worker.supernet.space, load_front(folder)
    rng = np.random.default_rng(0)
    chosen = [space.smallest(), space.largest(), *(space.architecture(m.architecture) for m in members)]
    rows = np.concatenate([np.stack([space.row(arch) for arch in chosen]), space.sample(arguments.dense, rng)])
    nets, artifacts = [], []
    for i, row in enumerate(dense_rows(space, rows)):
        evaluation, made = worker.evaluate(EvaluateJob(i, row, split="holdout"))
        nets.append((f"dense {space.architecture(row).key}", evaluation.metrics["accuracy"]))
        artifacts.append(made[arguments.device])
    for member in members:
        content = folder.load_artifact(member.artifacts[arguments.device])
        if content is None:
            raise SystemExit(f"{member.key} must have its artifact in {folder.path}, but has not.")
        sparsity = member.architecture.get("model.sparsity", "?")
        nets.append((f"{sparsity} {member.key}", member.validated["accuracy"]))
        artifacts.append(content)
    results = [m["latency_ms"] for m in plan.device(arguments.device).measure(artifacts)]
    widths = [float(r.environment.get("within_half_width_ms", 1.96 * r.std)) for r in results]
    table = [Net(*net, r.value, width) for net, r, width in zip(nets, results, widths, strict=True)]
    report(table, examples=len(plan.dataset.holdout))


def report(table: list[Net], *, examples: int) -> None:
    """Prints the dense nets that no dense net dominates, the sparse nets, and whom each dominates."""
    print(machine())
    dense = [net for net in table if net.name.startswith("dense")]
    sparse = [net for net in table if not net.name.startswith("dense")]
    front = [net for net in dense if not any(better(other, net) for other in dense)]
    print("| net | hold-out accuracy | ms | dense nets that are slower and not more accurate |\n|---|---|---|---|")
    for net in sorted([*front, *sparse], key=lambda net: net.latency_ms):
        half = 1.96 * sqrt(net.accuracy * (1 - net.accuracy) / examples)
        beaten = sum(better(net, other) for other in dense) if net in sparse else "-"
        times = f"{net.latency_ms:.4f} +- {net.half_width_ms:.4f}"
        print(f"| {net.name} | {100 * net.accuracy:.1f} +- {100 * half:.1f} | {times} | {beaten} |")
    left = [net for net in dense if not any(better(other, net) for other in sparse)]
    print(f"{len(dense)} dense nets, {len(dense) - len(left)} of them dominated by a sparse one")
    for net in left:
        print(f"not dominated: {net.name}, {100 * net.accuracy:.1f} %, {net.latency_ms:.4f} ms")


def better(one: Net, other: Net) -> bool:
    """Returns whether one is at least as accurate and faster, the intervals of the times apart."""
    faster = one.latency_ms + one.half_width_ms < other.latency_ms - other.half_width_ms
    return faster and one.accuracy >= other.accuracy


if __name__ == "__main__":
    main()
