"""Which subnets a training step looks at: pure functions of space, seed and step."""

from __future__ import annotations

import numpy as np

from search_spaces.architecture import Architecture
from search_spaces.supernet import Supernet

REFERENCE = (64, 64, 3)
"""Outputs, inputs and kernel side of the layer by which sparsity patterns are ranked."""


def smallest(supernet: Supernet) -> Architecture:
    """Returns the smallest architecture, with the sparsest choice of every sparsity gene."""
    arch = supernet.space.smallest()
    if supernet.sparsity is None:
        return arch
    kept = [int(pattern.nonzeros(*REFERENCE)) for pattern in supernet.sparsity.patterns]
    sparsest = supernet.sparsity.choices[int(np.argmin(kept))]
    genes = {name: sparsest if name.endswith(".sparsity") else value for name, value in arch.items()}
    return supernet.space.architecture(genes)


def random_subnets(supernet: Supernet, seed: int, step: int, n: int) -> list[Architecture]:
    """Returns `n` architectures drawn uniformly from the space for one step: the stream is `[seed, step]`."""
    rng = np.random.default_rng([seed, step])
    return supernet.space.architectures(supernet.space.sample(n, rng))
