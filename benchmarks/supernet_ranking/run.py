"""Do subnets rank without retraining as they do when trained alone? Sandwich against single-path, same compute.

An MLP super-network with node and sparsity genes on digits; architectures drawn uniformly. Each is scored with the
super-network's weights (several seeds), and trained alone from scratch (several seeds, same epochs) as the reference.

python benchmarks/supernet_ranking/run.py --out results.json [--architectures 30] [--seeds 5] [--epochs 60]
python benchmarks/supernet_ranking/run.py --table results.json

Every result is written when it is there; the same command goes on. --seconds stops between two trainings.
"""

from __future__ import annotations

import argparse
import json
import time
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import kendalltau, t

from hwsearch.data.dataset import Dataset
from hwsearch.data.digits import DigitsSpec
from hwsearch.evaluation import evaluate
from hwsearch.runfolder import write_atomic
from hwsearch.training.config import TrainingConfig
from hwsearch.training.network_training import train_network
from hwsearch.training.recipes.masking import GivenMask
from hwsearch.training.sampling import smallest
from hwsearch.training.supernet_training import train
from hwsearch.training.verification import fresh
from search_spaces.architecture import Architecture
from search_spaces.mlp import MLP
from search_spaces.sparsity import parse_pattern
from search_spaces.supernet import SparsityGenes, Supernet

NODES = (4, 8, 16, 32, 64, 128)
PATTERNS = ("dense", "unstructured-0.5", "unstructured-0.8", "unstructured-0.95")
SANDWICH, SINGLE = "sandwich + distillation", "single path, same MACs"
N_RANDOM = 2


def supernet(seed: int) -> Supernet:
    family = MLP(input_shape=(1, 8, 8), n_classes=10, hidden=(NODES, NODES))
    return Supernet(family, sparsity=SparsityGenes(PATTERNS), seed=seed)


def drawn(net: Supernet, n: int) -> list[Architecture]:
    """Returns `n` distinct architectures, uniform over the space."""
    rows = np.unique(net.space.sample(4 * n, np.random.default_rng(7)), axis=0)
    return net.space.architectures(rows[np.random.default_rng(8).permutation(len(rows))[:n]])


def equal_epochs(net: Supernet, epochs: int) -> int:
    """Returns the single-path epochs whose multiply-accumulates equal those of the sandwich."""
    mean = float(net.costs(net.space.sample(2000, np.random.default_rng(0))).macs.mean())
    ends = [float(net.layer_costs(a).macs[0]) for a in (net.space.largest(), smallest(net))]
    return round(epochs * (sum(ends) + N_RANDOM * mean) / mean)


def config_of(plan: str, net: Supernet, epochs: int, seed: int) -> TrainingConfig:
    if plan == SINGLE:
        return TrainingConfig(epochs=equal_epochs(net, epochs), schedule="single_path", learning_rate=2e-3, seed=seed)
    return TrainingConfig(epochs=epochs, n_random=N_RANDOM, learning_rate=2e-3, seed=seed)


def scores(module: torch.nn.Module, data: Dataset) -> dict[str, float]:
    """Returns the accuracy on both splits that training does not see."""
    return {"search": evaluate(module, data.search).accuracy, "holdout": evaluate(module, data.holdout).accuracy}


def alone(net: Supernet, arch: Architecture, data: Dataset, epochs: int, seed: int) -> dict[str, float]:
    """Trains one architecture from fresh weights; its masks are chosen by magnitude of these weights."""
    model = fresh(net.extract(arch), 100 + seed)
    tensors = dict(model.named_parameters())
    patterns = {f"{n.rpartition('.')[0]}.weight": str(v) for n, v in arch.items() if n.endswith("sparsity")}
    found = {name: parse_pattern(pattern).mask(tensors[name]) for name, pattern in patterns.items()}
    masks = {name: mask for name, mask in found.items() if mask is not None}
    assert {n: int(m.sum()) for n, m in masks.items()} == {n: int(m.sum()) for n, m in net.masks(arch).items()}
    config = TrainingConfig(epochs=epochs, learning_rate=2e-3, seed=seed)
    train_network(model, data, config, recipes=[GivenMask(masks=masks)] if masks else [])
    return scores(model, data)


def run(out: Path, architectures: int, seeds: int, epochs: int, seconds: float) -> bool:
    """Returns whether everything is there; otherwise the time was over."""
    results: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    data = DigitsSpec(size=8).open()
    begun = time.perf_counter()
    for seed in range(seeds):
        jobs = [SANDWICH, SINGLE, *(f"alone {i}" for i in range(architectures))]
        for job in jobs:
            key = f"{job}|{seed}"
            if key in results:
                continue
            if time.perf_counter() - begun > seconds:
                return False
            net = supernet(seed)
            archs = drawn(net, architectures)
            if job in (SANDWICH, SINGLE):
                config = config_of(job, net, epochs, seed)
                train(net, data, config)
                rows = [scores(net.extract(arch), data) for arch in archs]
                results[key] = {"epochs": config.epochs} | {s: [r[s] for r in rows] for s in ("search", "holdout")}
            else:
                results[key] = alone(net, archs[int(job.split()[1])], data, epochs, seed)
            write_atomic(out, json.dumps(results).encode())
    return True


def bootstrap(x: NDArray[np.float64], y: NDArray[np.float64], n: int = 2000) -> tuple[float, float, float]:
    """Returns Kendall's tau-b and the 95 % percentile interval over resampled architectures."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(n):
        rows = rng.integers(0, len(x), len(x))
        found.append(kendalltau(x[rows], y[rows]).statistic)
    low, high = np.nanpercentile(found, [2.5, 97.5])
    return float(kendalltau(x, y).statistic), float(low), float(high)


def table(path: Path) -> None:
    results = json.loads(path.read_text())
    seeds = sum(key.startswith(f"{SANDWICH}|") for key in results)
    n = len(results[f"{SANDWICH}|0"]["search"])
    single = {
        split: np.array([[results[f"alone {i}|{s}"][split] for i in range(n)] for s in range(seeds)])
        for split in ("search", "holdout")
    }
    reference = single["holdout"].mean(0)
    print(
        f"{n} architectures, {seeds} seeds; trained alone: {100 * reference.min():.1f} .. {100 * reference.max():.1f} %"
    )
    pairs = [
        kendalltau(single["search"][a], single["holdout"][b]).statistic
        for a in range(seeds)
        for b in range(seeds)
        if a != b
    ]
    print(f"tau between two stand-alone seeds (what noise allows one training): {np.mean(pairs):.3f}\n")
    print("| training | epochs | mean accuracy of the subnets, % | tau to stand-alone [95 %] | tau of single seeds |")
    print("|---|---|---|---|---|")
    for plan in (SANDWICH, SINGLE):
        rows = [results[f"{plan}|{s}"] for s in range(seeds)]
        found = np.array([r["search"] for r in rows])
        tau, low, high = bootstrap(found[0], reference)
        each = [kendalltau(f, reference).statistic for f in found]
        unseen = 100 * np.mean([r["holdout"] for r in rows])
        print(
            f"| {plan} | {rows[0]['epochs']} | {unseen:.2f} | {tau:.3f} [{low:.3f}, {high:.3f}] "
            f"| {min(each):.3f} .. {max(each):.3f} |"
        )
    difference = 100 * np.array(
        [
            np.mean(results[f"{SANDWICH}|{s}"]["holdout"]) - np.mean(results[f"{SINGLE}|{s}"]["holdout"])
            for s in range(seeds)
        ]
    )
    half = float(t.ppf(0.975, seeds - 1)) * difference.std(ddof=1) / np.sqrt(seeds)
    print(
        f"\nsandwich - single path, points, {seeds} seeds: {difference.mean():+.2f} "
        f"[{difference.mean() - half:+.2f}, {difference.mean() + half:+.2f}]"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("supernet_ranking.json"))
    parser.add_argument("--architectures", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=inf)
    parser.add_argument("--table", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not args.table and not run(args.out, args.architectures, args.seeds, args.epochs, args.seconds):
        raise SystemExit(3)
    table(args.table or args.out)
