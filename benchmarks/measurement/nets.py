"""MobileNetV3 subnets of the Once-for-All space, with random weights: latency does not depend on their values."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from search_spaces.ofa_networks import OfaMobilenetV3
from search_spaces.supernet import Supernet


def space(side: int, *, seed: int = 0) -> Supernet:
    """Returns the super-network for images of one side."""
    return Supernet(OfaMobilenetV3(resolutions=[side]), seed=seed)


def distinct(supernet: Supernet, n: int, *, seed: int) -> np.ndarray:
    """Returns n distinct architectures (n, g), uniform over the space."""
    rng = np.random.default_rng(seed)
    rows = np.unique(supernet.space.sample(2 * n, rng), axis=0)
    return rng.permutation(rows)[:n]


def stratified(supernet: Supernet, n: int, *, seed: int) -> np.ndarray:
    """Returns n architectures spread evenly over the MACs of the space, smallest and largest included."""
    rng = np.random.default_rng(seed)
    smallest, largest = (supernet.space.row(a()) for a in (supernet.space.smallest, supernet.space.largest))
    # Uniform samples crowd in the middle: mixing each with an extreme fills the range.
    rows = [smallest, largest]
    for _ in range(4000):
        base, share = (smallest, largest)[rng.integers(2)], rng.random()
        row = supernet.space.sample(1, rng)[0]
        rows.append(np.where(rng.random(len(row)) < share, base, row))
    pool = np.unique(supernet.space.canonical(np.array(rows, np.uint8)), axis=0)
    macs = supernet.costs(pool).macs
    wanted = np.linspace(macs.min(), macs.max(), n)
    chosen: list[int] = []
    for want in wanted:
        for i in np.argsort(np.abs(macs - want)):
            if i not in chosen:
                chosen.append(int(i))
                break
    return pool[chosen]


def modules(supernet: Supernet, rows: np.ndarray) -> Iterator[tuple[nn.Module, tuple[Tensor, ...], dict[str, float]]]:
    """Yields each subnet, an example and its costs."""
    for row in rows:
        arch = supernet.space.architecture(row)
        costs = {name: float(v) for name, v in supernet.layer_costs(arch).metrics().items()}
        yield supernet.extract(arch), supernet.family.example_inputs(arch=arch), costs


def one_thread() -> None:
    """Holds torch at one thread."""
    torch.set_num_threads(1)
