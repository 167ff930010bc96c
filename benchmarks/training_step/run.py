"""One training step: super-network against static net, masked against dense, and the share of mask updates.

python benchmarks/training_step/run.py [--repeats 15] [--large]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hwsearch.training.config import TrainingConfig
from hwsearch.training.loop import set_layout
from hwsearch.training.network_training import NetworkLearner
from hwsearch.training.optimizer import make_optimizer
from hwsearch.training.recipes.base import Recipe, Session, prunable
from hwsearch.training.recipes.dynamic import DynamicSparsity
from hwsearch.training.recipes.gradual import GradualPruning
from hwsearch.training.recipes.masking import FixedMask
from hwsearch.training.recipes.patterns import StraightThrough
from search_spaces.mlp import MLP
from search_spaces.mobilenet import MobileNet, Stage
from search_spaces.supernet import Family, SparsityGenes, Supernet


def families(large: bool) -> dict[str, tuple[Family, int]]:
    small = (
        Stage(width=(16, 24, 32), depth=(1, 2), kernel=(3, 5), expand=(2, 3, 4)),
        Stage(width=(32, 48, 64), depth=(1, 2, 3), kernel=(3,), expand=(2, 3, 4)),
    )
    found: dict[str, tuple[Family, int]] = {
        "mlp 64-256-256-10": (MLP(input_shape=(64,), n_classes=10, hidden=((64, 256), (64, 256))), 64),
        "quickstart mobilenet 32x32": (
            MobileNet(input_shape=(1, 32, 32), n_classes=10, stem_stride=2, stages=small),
            64,
        ),
    }
    if large:
        # Widths, depths and expansions of MobileNetV3-Large; kernels of 3, since oneDNN's depthwise 5x5 would dominate.
        widths, strides = (24, 40, 80, 112, 160), (2, 2, 2, 1, 2)
        stages = tuple(
            Stage(width=(w,), depth=(2, 4), kernel=(3,), expand=(3, 6), stride=s, act="hswish", se=w in (40, 112, 160))
            for w, s in zip(widths, strides, strict=True)
        )
        found["MobileNetV3-size 128x128"] = (
            MobileNet(input_shape=(3, 128, 128), n_classes=1000, stem=16, stem_stride=2, head=960, stages=stages),
            16,
        )
    return found


def interleaved(steps: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Returns median milliseconds of CPU time (one thread) of each step; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats + 2):
        for name, step in steps.items():
            started = time.process_time()
            step()
            times[name].append(1e3 * (time.process_time() - started))
    return {name: statistics.median(found[2:]) for name, found in times.items()}


def batch(family: Family, size: int) -> tuple[Tensor, Tensor]:
    (x,) = family.example_inputs(batch=size, generator=torch.Generator().manual_seed(0))
    return x, torch.arange(size) % 10


def supernet_against_static(family: Family, size: int, repeats: int) -> None:
    x, y = batch(family, size)
    net = Supernet(family, sparsity=SparsityGenes(("dense", "unstructured-0.5", "unstructured-0.8"))).train()
    set_layout(net.full, torch.channels_last)
    largest = net.space.largest()
    sparse = net.space.architecture(
        {k: "unstructured-0.8" if k.endswith("sparsity") else v for k, v in largest.items()}
    )
    static = net.extract(largest).train()
    set_layout(static, torch.channels_last)
    config = TrainingConfig()
    shared, own = make_optimizer(net.full, config), make_optimizer(static, config)

    def step(forward: Callable[[], Tensor], optimizer: torch.optim.Optimizer) -> Callable[[], None]:
        def run() -> None:
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(forward(), y).backward()
            optimizer.step()

        return run

    found = interleaved(
        {
            "static": step(lambda: static(x), own),
            "supernet, largest": step(lambda: net(x, largest), shared),
            "supernet, largest at 0.8": step(lambda: net(x, sparse), shared),
        },
        repeats,
    )
    for name, ms in found.items():
        print(f"  {name:28s} {ms:8.1f} ms  x{ms / found['static']:.2f}")


def masked_against_dense(family: Family, size: int, repeats: int) -> None:
    x, y = batch(family, size)
    net = Supernet(family)
    recipes: dict[str, Recipe | None] = {
        "dense": None,
        "fixed mask": FixedMask(sparsity=0.8),
        "GMP": GradualPruning(sparsity=0.8, begin=0.0, every=10),
        "RigL": DynamicSparsity(sparsity=0.8, every=20),
        "SR-STE 2:4": StraightThrough(pattern="2:4"),
    }
    steps: dict[str, Callable[[], None]] = {}
    spent: dict[str, list[float]] = {}
    for name, recipe in recipes.items():
        model = net.extract(net.space.largest()).train()
        set_layout(model, torch.channels_last)
        steps[name], spent[name] = masked_step(model, recipe, x, y)
    found = interleaved(steps, max(repeats, 18))  # 20 steps with the warm-up: a whole period of updates
    for name, ms in found.items():
        # Mask updates: time inside the recipe's hooks over a whole period of 20 steps.
        share = sum(spent[name][-20:]) / (20 * ms) if spent[name] else 0.0
        print(f"  {name:28s} {ms:8.1f} ms  x{ms / found['dense']:.2f}  in hooks {100 * share:.1f} %")


def masked_step(
    model: nn.Module, recipe: Recipe | None, x: Tensor, y: Tensor
) -> tuple[Callable[[], None], list[float]]:
    config, spent, count = TrainingConfig(), [], [0]
    optimizer = make_optimizer(model, config)
    used = [recipe] if recipe is not None else []
    for r in used:
        r.start(
            Session(model, optimizer, 100, 0, prunable(model, ("stem", "classifier") if hasattr(model, "stem") else ()))
        )
    learner = NetworkLearner(model, config, recipes=used)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        learner.learn(x, y, count[0])
        started = time.process_time()
        for r in used:
            r.on_gradients(count[0])
        middle = time.process_time()
        optimizer.step()
        after = time.process_time()
        for r in used:
            r.after_step(count[0])
        if used:
            spent.append(1e3 * (middle - started + time.process_time() - after))
        count[0] += 1

    return run, spent


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--large", action="store_true", help="also a MobileNetV3-size net")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for title, (family, size) in families(args.large).items():
        print(f"{title}, batch {size}")
        supernet_against_static(family, size, args.repeats)
        masked_against_dense(family, size, args.repeats)
