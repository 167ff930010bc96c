"""Digits ResNet: our post-training front against torch-pruning and plain magnitude, at equal measured latency.

python -m benchmarks.own_model.pruning_peers [--seeds 0 1 2 3 4] [--candidates 40] [--out FILE]

Per seed: a network is trained; the peers cut it at uniform ratios; our search scores random sub-networks without
training. Every net that is compared is then fine-tuned in the same way, for the same number of steps. For each peer's
net, ours is the candidate of the highest search accuracy that is at least as fast; hold-out images decide.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.own_model.measuring import user_code
from hwsearch.data.dataset import Dataset
from hwsearch.data.digits import DigitsSpec
from hwsearch.evaluation import calibration_batches, evaluate
from hwsearch.export.onnx_exporter import cpu_session, write
from hwsearch.training.config import TrainingConfig
from hwsearch.training.network_training import train_network
from search_spaces.architecture import Architecture
from search_spaces.from_model import FromModel, SpaceOptions, space_from_model
from search_spaces.supernet import Supernet

RATIOS = (0.75, 0.5, 0.25)
BATCH = 16
EXAMPLE = torch.zeros(2, 1, 32, 32)


def latencies(modules: list[nn.Module], *, rounds: int) -> list[float]:
    """Returns the median CPU milliseconds of each, one thread, in turn; the best of three calls per round."""
    sessions = [cpu_session(write(m, (EXAMPLE,), ["input"])) for m in modules]
    feed = {"input": np.random.default_rng(0).standard_normal((BATCH, 1, 32, 32)).astype(np.float32)}
    times: list[list[float]] = [[] for _ in sessions]
    for _ in range(rounds):
        for own, session in zip(times, sessions, strict=True):
            calls = []
            for _ in range(3):
                start = time.process_time()
                session.run(None, feed)
                calls.append(time.process_time() - start)
            own.append(min(calls) * 1e3)
    return [float(np.median(t)) for t in times]


def torch_pruning_net(model: nn.Module, ratio: float) -> nn.Module:
    """Returns the model with `ratio` of the channels of every group, by torch-pruning's group magnitude."""
    import torch_pruning as tp

    made: Any = copy.deepcopy(model)
    pruner = tp.pruner.MetaPruner(
        made,
        EXAMPLE,
        importance=tp.importance.GroupMagnitudeImportance(),
        pruning_ratio=1 - ratio,
        round_to=8,
        ignored_layers=[made.fc],
    )
    pruner.step()
    return made


def uniform(family: FromModel, ratio: float) -> Architecture:
    values = dict(family.space.largest())
    for group in family.groups:
        values[group.gene] = min(group.counts, key=lambda c: abs(c - ratio * len(group.units)))
    return family.space.architecture(values)


def family_of(model: nn.Module, importance: str, repair: str, batches: list[Tensor]) -> FromModel:
    options = SpaceOptions(ratios=(0.25, 0.5, 0.75), multiple=8, importance=importance, repair=repair)
    return space_from_model(model, EXAMPLE, options=options, calibration=[(b,) for b in batches])


def ours(model: nn.Module, data: Dataset, n: int, seed: int) -> list[nn.Module]:
    """Returns repaired candidates: uniform ones and `n` random ones, without training."""
    batches = calibration_batches(data.train, n=256)
    family = family_of(model, "group", "least_squares", batches)
    net, rng = Supernet(family), np.random.default_rng(seed)
    archs = [uniform(family, r) for r in RATIOS]
    while len(archs) < n + len(RATIOS):
        archs += net.space.architectures(net.space.sample(n, rng))[: n + len(RATIOS) - len(archs)]
    made = []
    for arch in archs:
        module = net.extract(arch)
        family.finish(module, arch, [])
        made.append(module)
    return made


def one_seed(code: Any, data: Dataset, seed: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    model = code.trained(seed=seed, epochs=args.epochs)
    batches = calibration_batches(data.train, n=256)
    plain = family_of(model, "magnitude", "none", batches)
    magnitude = Supernet(plain)
    makers: dict[str, Callable[[float], nn.Module]] = {
        "torch-pruning": lambda ratio: torch_pruning_net(model, ratio),
        "magnitude": lambda ratio: magnitude.extract(uniform(plain, ratio)),
    }
    peers = {(peer, ratio): make(ratio) for peer, make in makers.items() for ratio in RATIOS}
    candidates = ours(model, data, args.candidates, seed)
    times = latencies([model, *peers.values(), *candidates], rounds=args.rounds)
    mine = times[1 + len(peers) :]
    scores = [evaluate(c, data.search, calibration=batches).accuracy for c in candidates]
    config = TrainingConfig(
        epochs=args.finetuning, batch_size=64, learning_rate=1e-3, warmup_epochs=0.2, label_smoothing=0.0, seed=seed
    )
    done: dict[int, float] = {}

    def tuned(module: nn.Module) -> float:
        if id(module) not in done:
            learns = copy.deepcopy(module)
            train_network(learns, data, config)
            done[id(module)] = evaluate(learns, data.holdout, calibration=batches).accuracy
        return done[id(module)]

    rows = [{"seed": seed, "peer": "original", "ms": times[0], "accuracy": evaluate(model, data.holdout).accuracy}]
    for ((peer, ratio), module), ms in zip(peers.items(), times[1:], strict=False):
        fits = [i for i, t in enumerate(mine) if t <= ms]
        best = max(fits, key=lambda i: scores[i], default=None)
        row = {"seed": seed, "peer": peer, "kept": ratio, "ms": ms, "accuracy": tuned(module)}
        if best is not None:
            row |= {"our_ms": mine[best], "our_untrained": scores[best], "our_accuracy": tuned(candidates[best])}
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--candidates", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=6, help="of the original")
    parser.add_argument("--finetuning", type=int, default=2, help="epochs, for every compared net")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    code, data = user_code("digits_model"), DigitsSpec().open()
    rows: list[dict[str, Any]] = []
    for seed in args.seeds:
        for row in one_seed(code, data, seed, args):
            rows.append({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
            print(json.dumps(rows[-1]), flush=True)
    print("| peer | kept | its ms | its accuracy | our ms | our accuracy | seeds where ours is at least as high |")
    for peer in ("torch-pruning", "magnitude"):
        for ratio in RATIOS:
            own = [r for r in rows if r["peer"] == peer and r["kept"] == ratio and "our_ms" in r]
            if own:
                means = [np.mean([r[k] for r in own]) for k in ("ms", "accuracy", "our_ms", "our_accuracy")]
                won = sum(r["our_accuracy"] >= r["accuracy"] for r in own)
                print(f"| {peer} | {ratio} |", " | ".join(f"{m:.4f}" for m in means), f"| {won} of {len(own)} |")
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
