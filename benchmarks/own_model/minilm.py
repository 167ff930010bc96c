"""MiniLM without training: how faithful are encoders that onnxruntime runs faster, with and without repair?

python -m benchmarks.own_model.minilm [--seconds 600] [--sentences 192] [--importance obs] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor, nn

from benchmarks.own_model.measuring import user_code
from hwsearch.export.onnx_exporter import trace
from hwsearch.own_model import agreement
from search_spaces.architecture import Architecture
from search_spaces.from_model import SpaceOptions, space_from_model
from search_spaces.supernet import Supernet

BRANCH = "bert.encoder.layer.{}"


def session(module: nn.Module, example: Tensor) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(trace(module, (example,), ["ids"]), options, providers=["CPUExecutionProvider"])


def ratios(
    sessions: dict[str, ort.InferenceSession], x: np.ndarray, *, rounds: int = 15
) -> dict[str, dict[str, float]]:
    """Median latency of each, and the median of its ratio to the original in the same round (interleaved)."""
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(rounds):
        for name, s in sessions.items():
            best = min(_timed(s, x) for _ in range(3))
            times[name].append(best)
    first = np.array(times["original"])
    return {
        name: {"ms": float(np.median(t) * 1e3), "speedup": float(np.median(first / np.array(t)))}
        for name, t in times.items()
    }


def _timed(s: ort.InferenceSession, x: np.ndarray) -> float:
    """CPU seconds of one call in one thread: what other jobs take from the core is not counted."""
    start = time.process_time()
    s.run(None, {"ids": x})
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--sentences", type=int, default=192, help="for criterion and repair")
    parser.add_argument("--importance", default="obs")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    started, cpu = time.perf_counter(), time.process_time()
    code = user_code("minilm_model")
    module = code.build()
    calibration = [(b,) for b in torch.from_numpy(code.train()[: args.sentences]).split(64)]
    options = SpaceOptions(
        ratios=(0.5, 0.6875, 0.71875, 0.75), importance=args.importance, repair="least_squares", multiple=16
    )
    family = space_from_model(module, code.example(), options=options, calibration=calibration)
    net = Supernet(family)
    splits = {"search": torch.from_numpy(code.search()[:150]), "holdout": torch.from_numpy(code.holdout())}
    whole = net.space.largest()

    @torch.no_grad()
    def embed(m: nn.Module, part: str) -> Tensor:
        return torch.cat([m(x) for x in splits[part].split(50)])

    wanted = {part: embed(module, part) for part in splits}

    def subnet(arch: Architecture, *, repaired: bool) -> nn.Module:
        made = net.extract(arch)
        family.options = replace(options, repair="least_squares" if repaired else "none")
        family.finish(made, arch, [])
        return made

    def fidelity(arch: Architecture, part: str = "search", *, repaired: bool = True) -> float:
        return agreement(wanted[part], embed(subnet(arch, repaired=repaired), part), kind="similarities")

    log: list[dict[str, Any]] = []

    def note(what: str, arch: Architecture, **values: float) -> None:
        changed = {g: v for g, v in arch.items() if v != whole[g]}
        log.append({"what": what, "macs": int(net.layer_costs(arch).macs[0]), "changed": changed, **values})
        print(f"{time.perf_counter() - started:6.0f} s", json.dumps(log[-1]), flush=True)

    note("original", whole, fidelity=1.0)

    def uniform(feed: float, heads: float, *without: str) -> Architecture:
        values = dict(whole)
        for group in family.groups:
            share = heads if group.gene.endswith(".heads") else feed
            values[group.gene] = min(group.counts, key=lambda c: abs(c - share * len(group.units)))
        values |= {f"{BRANCH.format(name)}.keep": 0 for name in without}
        return net.space.architecture(values)

    picked = [uniform(0.71875, 1), uniform(0.75, 1), uniform(0.6875, 1), uniform(0.75, 0.75), uniform(0.5, 1)]
    tried: list[Architecture] = []
    for arch in picked:
        note("planned", arch, fidelity=fidelity(arch))
        tried.append(arch)
        if time.perf_counter() - started > args.seconds / 2:
            break
    rng = np.random.default_rng(0)  # the control: as many random nets
    for arch in net.space.architectures(net.space.sample(len(tried), rng)):
        note("random", arch, fidelity=fidelity(arch))
        if time.perf_counter() - started > args.seconds:
            break
    picked = tried
    x = splits["holdout"][:1]
    sessions = {"original": session(net.extract(whole), x)}  # bit-equal to the original
    for i, arch in enumerate(picked):
        sessions[f"net {i}"] = session(subnet(arch, repaired=True), x)
    table = ratios(sessions, x.numpy())
    for i, arch in enumerate(picked):
        row = table[f"net {i}"]
        note(
            f"holdout {i}",
            arch,
            fidelity=fidelity(arch, "holdout"),
            without_repair=fidelity(arch, "holdout", repaired=False),
            **row,
        )
    print(json.dumps({"table": table, "cpu_s": time.process_time() - cpu, "machine": platform.processor()}))
    if args.out:
        args.out.write_text(json.dumps(log, indent=1))


if __name__ == "__main__":
    main()
