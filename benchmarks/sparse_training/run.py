"""Digits: accuracy of every sparse training recipe at 50/80/90/95 % sparsity, one budget of steps for all.

python benchmarks/sparse_training/run.py --out results.json [--seeds 0 1 2 3 4] [--epochs 60] [--methods GMP RigL]
python benchmarks/sparse_training/run.py --table results.json

Every result is written when it is there; the same command goes on. --seconds stops between two trainings.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from math import inf
from pathlib import Path

import numpy as np
import torch
from torch import nn

from hwsearch.data.dataset import Dataset
from hwsearch.data.digits import DigitsSpec
from hwsearch.evaluation import correct_answers
from hwsearch.runfolder import write_atomic
from hwsearch.training.config import TrainingConfig
from hwsearch.training.network_training import train_network
from hwsearch.training.recipes.base import Recipe, prunable, sparsity_of
from hwsearch.training.recipes.dynamic import DynamicSparsity
from hwsearch.training.recipes.envelope import GroupEnvelope
from hwsearch.training.recipes.gradual import GradualPruning
from hwsearch.training.recipes.jackpots import LotteryJackpots
from hwsearch.training.recipes.masking import FixedMask
from hwsearch.training.recipes.patterns import MaskDecay, StraightThrough, StructureDecay
from hwsearch.training.soups import prune_and_soup
from hwsearch.training.verification import paired_difference

HIDDEN = 256
KEEP = ("classifier",)
LEVELS = (0.5, 0.8, 0.9, 0.95)
# Inputs are 64 and 256, so m may be 16, 32, 64. The n:m recipes are a little sparser than their column says.
N_OF_M = {0.5: "2:4", 0.8: "3:16", 0.9: "3:32", 0.95: "3:64"}


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential()
        model.add_module("flatten", nn.Flatten())
        model.add_module("layer1", nn.Linear(64, HIDDEN))
        model.add_module("relu1", nn.ReLU())
        model.add_module("layer2", nn.Linear(HIDDEN, HIDDEN))
        model.add_module("relu2", nn.ReLU())
        model.add_module("classifier", nn.Linear(HIDDEN, 10))
        return model


def settings(epochs: int, seed: int) -> TrainingConfig:
    return TrainingConfig(epochs=epochs, batch_size=64, learning_rate=2e-3, weight_decay=1e-2, seed=seed)


def in_training(make: Callable[[float], Recipe]) -> Callable[[Dataset, float, int, int, nn.Module], nn.Module]:
    """A recipe that acts during the whole budget."""

    def method(data: Dataset, sparsity: float, epochs: int, seed: int, dense: nn.Module) -> nn.Module:
        model = network(seed)
        train_network(model, data, settings(epochs, seed), recipes=[make(sparsity)], keep_dense=KEEP)
        return model

    return method


def after_training(make: Callable[[float], Recipe]) -> Callable[[Dataset, float, int, int, nn.Module], nn.Module]:
    """Two thirds of the budget dense (shared by all levels), one third with the recipe."""

    def method(data: Dataset, sparsity: float, epochs: int, seed: int, dense: nn.Module) -> nn.Module:
        model = copy.deepcopy(dense)
        rest = epochs - 2 * epochs // 3
        train_network(model, data, settings(rest, seed + 500), recipes=[make(sparsity)], keep_dense=KEEP)
        return model

    return method


def soup(data: Dataset, sparsity: float, epochs: int, seed: int, dense: nn.Module) -> nn.Module:
    """40 % of the budget dense, then 3 rounds x 3 members with the rest."""
    model = network(seed)
    first = 2 * epochs // 5
    train_network(model, data, settings(first, seed))
    config = settings((epochs - first) // 9, seed)
    prune_and_soup(model, data, config, sparsity=sparsity, rounds=3, members=3, keep_dense=KEEP)
    return model


METHODS: dict[str, Callable[[Dataset, float, int, int, nn.Module], nn.Module]] = {
    "GMP": in_training(lambda s: GradualPruning(sparsity=s)),
    "random ERK mask": in_training(lambda s: FixedMask(sparsity=s, criterion="random")),
    "magnitude one-shot": after_training(lambda s: FixedMask(sparsity=s, budget="global")),
    "IMP + soup": soup,
    "RigL": in_training(lambda s: DynamicSparsity(sparsity=s)),
    "n:m SR-STE": in_training(lambda s: StraightThrough(pattern=N_OF_M[s])),
    "n:m mask decay": in_training(lambda s: MaskDecay(pattern=N_OF_M[s])),
    "n:m structure decay": in_training(lambda s: StructureDecay(pattern=N_OF_M[s])),
    "WGSEF (filters)": in_training(lambda s: GroupEnvelope(sparsity=s)),
    "Lottery Jackpots": after_training(lambda s: LotteryJackpots(sparsity=s)),
    "SET": in_training(lambda s: DynamicSparsity(sparsity=s, grow="random")),
}
AFTER = ("magnitude one-shot", "Lottery Jackpots")


def run(out: Path, seeds: list[int], epochs: int, methods: list[str], seconds: float) -> bool:
    """Returns whether everything is there; otherwise the time was over."""
    results = json.loads(out.read_text()) if out.exists() else {}
    begun = time.perf_counter()
    partial: dict[int, nn.Module] = {}
    for name, sparsity in [("dense", 0.0), *((name, level) for name in methods for level in LEVELS)]:
        for seed in seeds:
            key = f"{name}|{sparsity:g}|{seed}"
            if key in results:
                continue
            if time.perf_counter() - begun > seconds:
                return False
            data = DigitsSpec(size=8, seed=seed).open()
            if name in AFTER and seed not in partial:
                partial[seed] = network(seed)
                train_network(partial[seed], data, settings(2 * epochs // 3, seed))
            started = time.perf_counter()
            if name == "dense":
                model = network(seed)
                train_network(model, data, settings(epochs, seed))
            else:
                model = METHODS[name](data, sparsity, epochs, seed, partial.get(seed, network(seed)))
            results[key] = record(model, data, time.perf_counter() - started)
            write_atomic(out, json.dumps(results).encode())
    return True


def record(model: nn.Module, data: Dataset, seconds: float) -> dict[str, object]:
    right = correct_answers(model, data.holdout)
    return {
        "right": "".join("1" if r else "0" for r in right),
        "sparsity": sparsity_of(prunable(model, KEEP)),
        "seconds": round(seconds, 2),
    }


def table(path: Path) -> None:
    results = json.loads(path.read_text())

    def splits(name: str) -> set[int]:
        """Returns the splits of which all levels are there."""
        levels = (0.0,) if name == "dense" else LEVELS
        return {s for s in range(1000) if all(f"{name}|{level:g}|{s}" in results for level in levels)}

    def pooled(name: str, level: float, seeds: list[int]) -> np.ndarray:
        rows = [results[f"{name}|{level:g}|{seed}"]["right"] for seed in seeds]
        return np.array([c == "1" for c in "".join(rows)])

    def print_rows(names: list[str], other: str) -> None:
        print("| method | splits | " + " | ".join(f"{100 * s:g} %" for s in LEVELS) + " |")
        print("|---|---|" + "---|" * len(LEVELS))
        for name in names:
            seeds, cells = sorted(splits(name) & splits(other)), []
            for level in LEVELS if seeds else ():
                right = pooled(name, level, seeds)
                d = paired_difference(right, [pooled(other, 0.0 if other == "dense" else level, seeds)])
                cells.append(
                    f"{100 * right.mean():.2f} ({100 * d.mean:+.2f} [{100 * d.low:+.2f}, {100 * d.high:+.2f}])"
                )
            print(f"| {name} | {len(seeds)} | " + " | ".join(cells) + " |")

    dense = pooled("dense", 0.0, sorted(splits("dense")))
    print(f"dense: {100 * dense.mean():.2f} % of {len(dense)} hold-out answers ({len(splits('dense'))} splits)")
    print("\naccuracy, % (points above dense [95 %])\n")
    print_rows(list(METHODS), "dense")
    print("\naccuracy, % (points above random ERK masks at the same level [95 %])\n")
    print_rows([name for name in METHODS if name != "random ERK mask"], "random ERK mask")
    print("\n| method | sparsity reached, % |\n|---|---|")
    for name in METHODS:
        found = [[results[f"{name}|{level:g}|{seed}"]["sparsity"] for seed in splits(name)] for level in LEVELS]
        if not splits(name):
            continue
        print(f"| {name} | {', '.join(f'{100 * np.mean(rows):.2f}' for rows in found)} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("sparse_training.json"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="of splits and weights")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seconds", type=float, default=inf)
    parser.add_argument("--table", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.table:
        table(args.table)
    else:
        if not run(args.out, args.seeds, args.epochs, args.methods, args.seconds):
            raise SystemExit(3)
        table(args.out)
