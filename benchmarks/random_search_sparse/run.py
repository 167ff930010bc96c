"""Random Search as a Baseline for Sparse NAS (arXiv 2403.08265), in node space, on data that ships with scikit-learn.

A configuration keeps a subset of the hidden nodes of an over-parameterised MLP, with the parent's initial weights.
Random search draws many at one sparsity, keeps the one with the lowest loss before training, and trains it; the
controls are an arbitrary random configuration of the same sparsity and the dense parent.

python benchmarks/random_search_sparse/run.py --out results.json [--seeds 10] [--draws 200] [--epochs 40]
python benchmarks/random_search_sparse/run.py --table results.json [--figure curves.png]

Every result is written when it is there; the same command goes on. --seconds stops between two trainings.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from hwsearch.data.dataset import Dataset
from hwsearch.data.digits import DigitsSpec
from hwsearch.data.preprocessing import Preprocessing
from hwsearch.data.spec import DataSpec, array_dataset
from hwsearch.evaluation import correct_answers
from hwsearch.runfolder import write_atomic
from hwsearch.training.config import TrainingConfig
from hwsearch.training.network_training import train_network

HIDDEN = (256, 256, 256)
SPARSITIES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95)


class BreastCancerSpec(DataSpec):
    """scikit-learn's breast cancer data: 569 rows, 30 standardised features as channels, 2 classes."""

    def open(self) -> Dataset:
        from sklearn.datasets import load_breast_cancer

        features, labels = load_breast_cancer(return_X_y=True)
        mean, std = features.mean(0), features.std(0)
        return array_dataset(
            self,
            "breast_cancer",
            features.astype(np.float32)[:, :, None, None],
            labels.astype(np.int64),
            n_classes=2,
            holdout_fraction=0.2,
            preprocessing=Preprocessing(1.0, tuple(map(float, mean)), tuple(map(float, std))),
        )


SOURCES = {"digits": DigitsSpec, "breast_cancer": BreastCancerSpec}


def mlp(widths: list[int]) -> nn.Sequential:
    parts: list[nn.Module] = [nn.Flatten()]
    for i, (a, b) in enumerate(pairwise(widths)):
        parts += [nn.Linear(a, b)] + ([nn.ReLU()] if i < len(widths) - 2 else [])
    return nn.Sequential(*parts)


def parent(data: Dataset, seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return mlp([int(np.prod(data.input_shape)), *HIDDEN, data.n_classes])


def draw(sparsity: float, rng: np.random.Generator) -> list[NDArray[np.intp]]:
    """Returns the kept nodes of each hidden layer: a uniform subset of all hidden nodes, at least one per layer."""
    total = sum(HIDDEN)
    keep = max(len(HIDDEN), round((1 - sparsity) * total))
    while True:
        chosen = np.sort(rng.choice(total, keep, replace=False))
        starts, ends = np.cumsum([0, *HIDDEN[:-1]]), np.cumsum(HIDDEN)
        parts = [chosen[(chosen >= a) & (chosen < b)] - a for a, b in zip(starts, ends, strict=True)]
        if all(len(p) for p in parts):
            return parts


@torch.no_grad()
def cut(dense: nn.Sequential, nodes: list[NDArray[np.intp]]) -> nn.Sequential:
    """Returns the configuration as a plain MLP with the parent's weights."""
    linears = [m for m in dense if isinstance(m, nn.Linear)]
    kept = [np.arange(linears[0].in_features), *nodes, np.arange(linears[-1].out_features)]
    made = mlp([len(k) for k in kept])
    for i, (target, source) in enumerate(zip([m for m in made if isinstance(m, nn.Linear)], linears, strict=True)):
        target.weight.copy_(source.weight[kept[i + 1]][:, kept[i]])
        target.bias.copy_(source.bias[kept[i + 1]])
    return made


@torch.no_grad()
def loss_of(model: nn.Module, data: Dataset) -> float:
    x, y = next(data.train.batches(4096))
    return float(F.cross_entropy(model(x), y))


def trained(model: nn.Sequential, data: Dataset, epochs: int, seed: int) -> dict[str, Any]:
    before, accuracy = loss_of(model, data), []
    config = TrainingConfig(epochs=epochs, batch_size=64, learning_rate=2e-3, weight_decay=0.0, seed=seed)

    def callback(progress: Any) -> None:
        if progress.step % (progress.n_steps // progress.n_epochs) == 0:
            accuracy.append(float(correct_answers(model, data.search).mean()))

    result = train_network(model, data, config, progress=callback)
    right = correct_answers(model, data.holdout)
    return {
        "before": before,
        "losses": [round(v, 5) for v in result.epoch_losses],
        "search_accuracy": [round(v, 4) for v in accuracy],
        "holdout_loss": holdout_loss(model, data),
        "right": "".join("1" if r else "0" for r in right),
        "widths": [m.out_features for m in model if isinstance(m, nn.Linear)][:-1],
    }


@torch.no_grad()
def holdout_loss(model: nn.Module, data: Dataset) -> float:
    x, y = next(data.holdout.batches(4096))
    return float(F.cross_entropy(model(x), y))


def run(out: Path, seeds: int, draws: int, epochs: int, seconds: float) -> bool:
    """Returns whether everything is there; otherwise the time was over."""
    begun = time.perf_counter()
    results = json.loads(out.read_text()) if out.exists() else {}
    for name, source in SOURCES.items():
        for seed in range(seeds):
            data = source(seed=seed) if name != "digits" else DigitsSpec(seed=seed, size=8)
            dataset = data.open()
            key = f"{name}|0|dense|{seed}"
            if key not in results:
                results[key] = trained(parent(dataset, seed), dataset, epochs, seed)
            for sparsity in SPARSITIES:
                if f"{name}|{sparsity}|random|{seed}" in results:
                    continue
                if time.perf_counter() - begun > seconds:
                    return False
                dense = parent(dataset, seed)
                rng = np.random.default_rng([seed, int(1000 * sparsity)])
                candidates = [draw(sparsity, rng) for _ in range(draws)]
                losses = [loss_of(cut(dense, nodes), dataset) for nodes in candidates]
                best = int(np.argmin(losses))
                arbitrary = draw(sparsity, rng)
                for kind, nodes in (("searched", candidates[best]), ("random", arbitrary)):
                    results[f"{name}|{sparsity}|{kind}|{seed}"] = trained(cut(dense, nodes), dataset, epochs, seed)
                write_atomic(out, json.dumps(results).encode())
    return True


def complete(results: dict[str, Any], name: str) -> list[int]:
    """Returns the seeds of which everything is there."""
    kinds = [(0, "dense"), *((level, kind) for level in SPARSITIES for kind in ("searched", "random"))]
    return [s for s in range(1000) if all(f"{name}|{level}|{kind}|{s}" in results for level, kind in kinds)]


def pooled(results: dict[str, Any], name: str, sparsity: float | int, kind: str) -> list[dict[str, Any]]:
    return [results[f"{name}|{sparsity}|{kind}|{seed}"] for seed in complete(results, name)]


def answers(rows: list[dict[str, Any]]) -> NDArray[np.bool_]:
    return np.array([c == "1" for c in "".join(r["right"] for r in rows)])


def interval(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """Returns mean and 95 % t-interval over seeds."""
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


def table(path: Path) -> None:
    results = json.loads(path.read_text())
    for name in SOURCES:
        dense = pooled(results, name, 0, "dense")
        if len(dense) < 2:
            print(f"\n{name}: fewer than two seeds are there")
            continue
        print(
            f"\n{name}: dense parent {100 * answers(dense).mean():.2f} %, hold-out loss "
            f"{np.mean([r['holdout_loss'] for r in dense]):.4f}, {len(dense)} seeds\n"
        )
        print(
            "| node sparsity | loss before: searched / random | accuracy: searched | random "
            "| searched - random, points [95 %] |"
            " epoch-5 loss: searched - random [95 %] | searched - dense, points |"
        )
        print("|---|---|---|---|---|---|---|")
        for sparsity in SPARSITIES:
            searched, random = (pooled(results, name, sparsity, kind) for kind in ("searched", "random"))
            accuracy = [np.array([answers([r]).mean() for r in rows]) for rows in (searched, random)]
            parents = np.array([answers([r]).mean() for r in dense])
            before = [np.mean([r["before"] for r in rows]) for rows in (searched, random)]
            d, low, high = interval(100 * (accuracy[0] - accuracy[1]))
            early = [np.array([r["losses"][4] for r in rows]) for rows in (searched, random)]
            e, e_low, e_high = interval(early[0] - early[1])
            print(
                f"| {100 * sparsity:g} % | {before[0]:.3f} / {before[1]:.3f} | {100 * accuracy[0].mean():.2f} | "
                f"{100 * accuracy[1].mean():.2f} | {d:+.2f} [{low:+.2f}, {high:+.2f}] | "
                f"{e:+.4f} [{e_low:+.4f}, {e_high:+.4f}] | {100 * (accuracy[0] - parents).mean():+.2f} |"
            )


def figure(path: Path, out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    results = json.loads(path.read_text())
    shown = (0.5, 0.9, 0.95)
    fig, axes = plt.subplots(2 * len(SOURCES), len(shown), figsize=(10, 10), sharex=True)
    for i, name in enumerate(SOURCES):
        for j, sparsity in enumerate(shown if complete(results, name) else ()):
            for kind, level, style in (("dense", 0, "k-"), ("searched", sparsity, "C0-"), ("random", sparsity, "C1--")):
                rows = pooled(results, name, level, kind)
                epochs = range(1, len(rows[0]["losses"]) + 1)
                for row, key in ((2 * i, "losses"), (2 * i + 1, "search_accuracy")):
                    values = np.array([r[key] for r in rows])
                    axes[row, j].plot(epochs, values.mean(0), style, lw=1.2, label=kind)
                    axes[row, j].fill_between(
                        epochs, values.min(0), values.max(0), color=style[:2] if style[0] == "C" else "k", alpha=0.08
                    )
            axes[2 * i, j].set_yscale("log")
            axes[2 * i, j].set_title(f"{name}, {100 * sparsity:g} % of nodes removed", fontsize=8)
            axes[2 * i + 1, j].set_ylim(0.8, 1.0)
        axes[2 * i, 0].set_ylabel("training loss")
        axes[2 * i + 1, 0].set_ylabel("search-validation accuracy")
    axes[0, 0].legend(fontsize=7)
    for axis in axes[-1]:
        axis.set_xlabel("epoch")
    fig.tight_layout()
    fig.savefig(out, dpi=60)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("random_search_sparse.json"))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=inf)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not args.table:
        finished = run(args.out, args.seeds, args.draws, args.epochs, args.seconds)
        if not finished:
            raise SystemExit(3)
    table(args.table or args.out)
    if args.figure:
        figure(args.table or args.out, args.figure)
