"""Do subnets rank without retraining as they do when trained alone? Sandwich against single-path, same compute.

An MLP super-network with node and sparsity genes on digits; architectures drawn uniformly; each is scored with the
super-network's weights on search-validation data and trained alone (several seeds, same data) as the reference.

python benchmarks/supernet_ranking/run.py [--architectures 30] [--seeds 3] [--epochs 60]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import kendalltau

from hwsearch.data.digits import DigitsSpec
from hwsearch.evaluation import evaluate
from hwsearch.training.config import TrainingConfig
from hwsearch.training.network_training import train_network
from hwsearch.training.recipes.masking import GivenMask
from hwsearch.training.sampling import smallest
from hwsearch.training.supernet_training import train
from hwsearch.training.verification import fresh
from search_spaces.mlp import MLP
from search_spaces.supernet import SparsityGenes, Supernet

NODES = (4, 8, 16, 32, 64, 128)
PATTERNS = ("dense", "unstructured-0.5", "unstructured-0.8", "unstructured-0.95")


def supernet(seed: int) -> Supernet:
    family = MLP(input_shape=(1, 8, 8), n_classes=10, hidden=(NODES, NODES))
    return Supernet(family, sparsity=SparsityGenes(PATTERNS), seed=seed)


def bootstrap(x: NDArray[np.float64], y: NDArray[np.float64], n: int = 2000) -> tuple[float, float, float]:
    """Returns Kendall's tau-b and the 95 % percentile interval over resampled architectures."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(n):
        rows = rng.integers(0, len(x), len(x))
        found.append(kendalltau(x[rows], y[rows]).statistic)
    low, high = np.nanpercentile(found, [2.5, 97.5])
    return float(kendalltau(x, y).statistic), float(low), float(high)


def equal_epochs(net: Supernet, epochs: int, n_random: int) -> int:
    """Returns the single-path epochs whose multiply-accumulates equal those of the sandwich."""
    mean = float(net.costs(net.space.sample(2000, np.random.default_rng(0))).macs.mean())
    ends = [float(net.layer_costs(a).macs[0]) for a in (net.space.largest(), smallest(net))]
    return round(epochs * (sum(ends) + n_random * mean) / mean)


def main(architectures: int, seeds: int, epochs: int, out: Path | None) -> None:
    torch.set_num_threads(1)
    data = DigitsSpec(size=8).open()
    base = supernet(0)
    rows = np.unique(base.space.sample(4 * architectures, np.random.default_rng(7)), axis=0)
    rows = rows[np.random.default_rng(8).permutation(len(rows))[:architectures]]
    archs = base.space.architectures(rows)

    shared: dict[str, list[NDArray[np.float64]]] = {}
    single = equal_epochs(base, epochs, 2)
    plans = {
        "sandwich + distillation": TrainingConfig(epochs=epochs, n_random=2, learning_rate=2e-3),
        "single path, same MACs": TrainingConfig(epochs=single, schedule="single_path", learning_rate=2e-3),
    }
    for name, config in plans.items():
        for seed in range(seeds):
            net = supernet(seed)
            train(net, data, config.model_copy(update={"seed": seed}))
            scores = [evaluate(net.extract(a), data.search).accuracy for a in archs]
            shared.setdefault(name, []).append(np.array(scores))
            print(name, seed, f"mean {100 * np.mean(scores):.2f} %", flush=True)

    alone = np.zeros((len(archs), seeds))
    for i, arch in enumerate(archs):
        masks = base.masks(arch)
        for seed in range(seeds):
            model = fresh(base.extract(arch), 100 + seed)
            # The mask is chosen by magnitude of this network's own start, as one that never saw the super-network.
            patterns = {f"{n.rpartition('.')[0]}.weight": str(v) for n, v in arch.items() if n.endswith("sparsity")}
            own = own_masks(model, patterns)
            assert {n: int(m.sum()) for n, m in own.items()} == {n: int(m.sum()) for n, m in masks.items()}
            config = TrainingConfig(epochs=epochs, learning_rate=2e-3, seed=seed)
            train_network(model, data, config, recipes=[GivenMask(masks=own)] if own else [])
            alone[i, seed] = evaluate(model, data.search).accuracy
    reference = alone.mean(1)
    print(f"\n{len(archs)} architectures, alone: {100 * reference.min():.1f} .. {100 * reference.max():.1f} %")
    half = np.array([kendalltau(alone[:, a], alone[:, b]).statistic for a in range(seeds) for b in range(a)])
    print(f"tau between two stand-alone seeds (what noise allows): {half.mean():.3f}\n")
    print("| training | epochs | mean accuracy of the subnets, % | tau to stand-alone [95 %] |\n|---|---|---|---|")
    for name, config in plans.items():
        tau, low, high = bootstrap(np.mean(shared[name], axis=0), reference)
        mean = 100 * np.mean(shared[name])
        print(f"| {name} | {config.epochs} | {mean:.2f} | {tau:.3f} [{low:.3f}, {high:.3f}] |")
    difference = np.mean(shared[next(iter(plans))], axis=0) - np.mean(shared["single path, same MACs"], axis=0)
    d, se = 100 * difference.mean(), 100 * difference.std(ddof=1) / np.sqrt(len(difference))
    print(
        f"\nsandwich - single path, points, over architectures: {d:+.2f} [{d - 1.96 * se:+.2f}, {d + 1.96 * se:+.2f}]"
    )
    if out is not None:
        lists = {name: np.array(values).tolist() for name, values in shared.items()}
        out.write_text(json.dumps({"rows": rows.tolist(), "alone": alone.tolist(), "shared": lists}))


def own_masks(model: torch.nn.Module, patterns: dict[str, str]) -> dict[str, torch.Tensor]:
    from search_spaces.sparsity import parse_pattern

    tensors = dict(model.named_parameters())
    found = {name: parse_pattern(p).mask(tensors[name]) for name, p in patterns.items()}
    return {name: mask for name, mask in found.items() if mask is not None}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    main(args.architectures, args.seeds, args.epochs, args.out)
