"""Which subnets a training step looks at: pure functions of space, seed and step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from search_spaces.architecture import Architecture
from search_spaces.genes import Gene
from search_spaces.space import Population, SearchSpace
from search_spaces.supernet import Supernet

REFERENCE = (64, 64, 3)
"""Outputs, inputs and kernel side of the layer by which sparsity patterns are ranked."""

KINDS = {
    "kernel": ("kernel",),
    "depth": ("depth",),
    "width": ("width", "expand", "nodes", "heads", "ffn", "embed"),
    "sparsity": ("sparsity",),
    "rank": ("rank",),
}
"""Kind of gene -> last parts of gene names."""

Ranking = Callable[[Population], NDArray[np.float64]]
"""Population (n, g) -> predicted quality (n,), larger is better."""


def kind_of(gene: str) -> str:
    """Returns the kind of a gene by the last part of its name, or `other`."""
    last = gene.rpartition(".")[2]
    return next((kind for kind, names in KINDS.items() if last in names), "other")


def smallest(supernet: Supernet) -> Architecture:
    """Returns the smallest architecture, with the sparsest choice of every sparsity gene."""
    arch = supernet.space.smallest()
    if supernet.sparsity is None:
        return arch
    kept = [int(pattern.nonzeros(*REFERENCE)) for pattern in supernet.sparsity.patterns]
    sparsest = supernet.sparsity.choices[int(np.argmin(kept))]
    genes = {name: sparsest if name.endswith(".sparsity") else value for name, value in arch.items()}
    return supernet.space.architecture(genes)


def random_rows(space: SearchSpace, seed: int, step: int, n: int) -> Population:
    """Returns `n` rows drawn uniformly from the space for one step: the stream is `[seed, step]`."""
    return space.sample(n, np.random.default_rng([seed, step]))


def random_subnets(supernet: Supernet, seed: int, step: int, n: int) -> list[Architecture]:
    """Returns `n` architectures drawn uniformly from the space for one step."""
    return supernet.space.architectures(random_rows(supernet.space, seed, step, n))


def released(done: float, phases: tuple[str, ...]) -> frozenset[str]:
    """Returns the kinds of genes whose choices are free: phase i of p begins when i / (p + 1) of the training is over.

    In the first share only the largest choices of all listed kinds are trained.
    """
    current = min(int(done * (len(phases) + 1)), len(phases))
    return frozenset(phases[:current])


def held_back(space: SearchSpace, rows: Population, phases: tuple[str, ...], free: frozenset[str]) -> Population:
    """Returns the rows with every gene of a listed kind that is not free at its largest choice (words: the first).

    Source: progressive shrinking, Once-for-All (Cai et al. 2020), section 3.3; choices of a kind are released at
    once, not one by one.
    """
    out = rows.copy()
    for column, gene in enumerate(space.genes):
        kind = kind_of(gene.name)
        if kind in phases and kind not in free:
            out[:, column] = _largest_choice(gene)
    return space.canonical(out)


def _largest_choice(gene: Gene) -> int:
    numbers = [c for c in gene.choices if not isinstance(c, str)]
    return gene.index(max(numbers)) if numbers else 0


def attentive_rows(
    space: SearchSpace,
    seed: int,
    step: int,
    n: int,
    *,
    pool: int,
    ranking: Ranking,
    prefer: Literal["best", "worst"],
) -> Population:
    """Returns `n` rows, each the best or the worst of `pool` random ones by predicted rank.

    Source: AttentiveNAS (Wang et al. 2021), best-up and worst-up sampling.
    """
    rows = random_rows(space, seed, step, n * pool)
    quality = np.asarray(ranking(rows), dtype=np.float64).reshape(n, pool)
    best = (quality if prefer == "best" else -quality).argmax(axis=1)
    chosen: Population = rows[np.arange(n) * pool + best]
    return chosen


def nonzeros_ranking(supernet: Supernet) -> Ranking:
    """Returns the ranking that needs no measurement: more non-zero weights are expected to be better."""

    def rank(rows: Population) -> NDArray[np.float64]:
        return supernet.costs(rows).nonzeros.astype(np.float64)

    return rank
