"""Verification: a found net against the controls that the literature asks for, with intervals."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hwsearch.data.dataset import Dataset
from hwsearch.training.config import TrainingConfig
from hwsearch.training.network_training import train_network
from hwsearch.training.recipes.base import Recipe, sparsity_of
from hwsearch.training.recipes.masking import GivenMask
from search_spaces.budgets import erdos_renyi_kernel, layerwise_masks
from search_spaces.criteria import random_scores

Answers = Callable[[nn.Module], NDArray[np.bool_]]
"""Module -> which hold-out examples it classifies rightly, (n,)."""


@dataclass(frozen=True)
class Difference:
    """A paired difference of accuracies with its interval.

    Args:
        mean: share of examples, positive when the first is better.
        low: lower end of the interval.
        high: upper end.
    """

    mean: float
    low: float
    high: float


def paired_difference(
    first: NDArray[np.bool_], second: Sequence[NDArray[np.bool_]], *, confidence: float = 0.95
) -> Difference:
    """Returns the accuracy of `first` minus the mean accuracy of `second`, with a normal interval.

    d_i is first's answer on example i minus the mean answer of the others; the variance is var(d) / n for the draw
    of examples plus var(accuracies of the others) / m for the draw of seeds.

    Args:
        first: (n,) right answers.
        second: m arrays (n,) of the same examples.
        confidence: of the interval.
    """
    if not second or any(s.shape != first.shape for s in second):
        raise ValueError("paired answers must be of the same examples, at least one array, but are not.")
    others = np.stack([s.astype(np.float64) for s in second])  # (m, n)
    difference = first.astype(np.float64) - others.mean(axis=0)
    variance = difference.var(ddof=1) / len(difference) if len(difference) > 1 else 0.0
    if len(others) > 1:
        variance += others.mean(axis=1).var(ddof=1) / len(others)
    half = NormalDist().inv_cdf(0.5 + confidence / 2.0) * sqrt(variance)
    mean = float(difference.mean())
    return Difference(mean, mean - half, mean + half)


@dataclass(frozen=True)
class Control:
    """One control and how the found net compares.

    Args:
        name: `scratch` (same architecture and masks, fresh weights, same epochs), `scratch_compute` (the same, more
            epochs), `random_mask` (fresh weights, random masks with ERK budgets at the same sparsity).
        accuracies: one per seed.
        difference: found minus control.
    """

    name: str
    accuracies: tuple[float, ...]
    difference: Difference


@dataclass(frozen=True)
class Verification:
    """A found net and its controls.

    Args:
        accuracy: of the found net.
        sparsity: of its masked weights together; 0 for a dense net.
        controls: in a fixed order.
    """

    accuracy: float
    sparsity: float
    controls: tuple[Control, ...]


def fresh(module: nn.Module, seed: int) -> nn.Module:
    """Returns a copy of the module with newly drawn weights, each submodule by its own `reset_parameters`.

    Raises:
        ValueError: a submodule owns parameters but cannot reset them.
    """
    made = copy.deepcopy(module)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, part in made.named_modules():
            reset = getattr(part, "reset_parameters", None)
            if callable(reset):
                reset()
            elif next(part.parameters(recurse=False), None) is not None:
                raise ValueError(f"a module to be retrained must have reset_parameters, but {name!r} has none.")
    return made


def random_erk_masks(masks: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Returns random masks over the same weights with ERK budgets and, together, the same number of kept weights."""
    density = 1.0 - sparsity_of(masks)
    rng = np.random.default_rng([seed, 15])
    densities = erdos_renyi_kernel({name: tuple(m.shape) for name, m in masks.items()}, density)
    return layerwise_masks({name: random_scores(mask, rng) for name, mask in masks.items()}, densities)


def verify(
    module: nn.Module,
    dataset: Dataset,
    config: TrainingConfig,
    *,
    masks: Mapping[str, Tensor],
    answers: Answers,
    seeds: Sequence[int] = (0, 1, 2),
    compute_factor: float = 2.0,
    progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Returns the found net's accuracy and how networks trained from scratch compare.

    Sources: Rethinking the Value of Network Pruning (Liu et al. 2019): Scratch-E and Scratch-B; Unreasonable
    Effectiveness of Random Pruning (Liu et al. 2022): random ERK masks.

    Args:
        module: the found net, as it is handed over.
        dataset: its train split is read.
        config: of a training from scratch; the same for all, but for the seed.
        masks: of the found net; empty for a dense one (then there is no random-mask control).
        answers: scores a module on data that neither search nor training saw.
        seeds: of the controls.
        compute_factor: epochs of `scratch_compute` over those of `scratch`.
        progress: called with (trainings done, trainings in all).
    """
    if not seeds:
        raise ValueError("seeds must list at least one seed, but got none.")
    if compute_factor < 1.0:
        raise ValueError(f"compute_factor must be at least 1, but got {compute_factor}.")
    found = answers(module)
    longer = config.model_copy(update={"epochs": round(config.epochs * compute_factor)})
    plans: list[tuple[str, TrainingConfig, bool]] = [("scratch", config, False), ("scratch_compute", longer, False)]
    if masks:
        plans.append(("random_mask", config, True))
    controls = []
    for number, (name, settings, random) in enumerate(plans):
        results = []
        for position, seed in enumerate(seeds):
            network = fresh(module, seed)
            chosen = random_erk_masks(masks, seed) if random else dict(masks)
            recipes: list[Recipe] = [GivenMask(masks=chosen)] if chosen else []
            train_network(network, dataset, settings.model_copy(update={"seed": seed}), recipes=recipes)
            results.append(answers(network))
            if progress is not None:
                progress(number * len(seeds) + position + 1, len(plans) * len(seeds))
        accuracies = tuple(float(r.mean()) for r in results)
        controls.append(Control(name, accuracies, paired_difference(found, results)))
    return Verification(float(found.mean()), sparsity_of(masks) if masks else 0.0, tuple(controls))


@dataclass(frozen=True)
class Candidate:
    """A network that was evaluated.

    Args:
        key: of its architecture.
        accuracy: share of examples.
        dense: has no masked weight.
        costs: name -> value, smaller is better: `nonzeros`, `latency_ms@cpu`, ...
    """

    key: str
    accuracy: float
    dense: bool
    costs: Mapping[str, float]


@dataclass(frozen=True)
class SmallDense:
    """A sparse network and the best dense one that costs no more.

    Args:
        key: of the sparse network.
        cost: which cost is compared.
        value: of the sparse network.
        accuracy: of the sparse network.
        dense_key: of the best dense network whose cost is at most that; None if there is none.
        dense_value: its cost.
        dense_accuracy: its accuracy.
    """

    key: str
    cost: str
    value: float
    accuracy: float
    dense_key: str | None
    dense_value: float | None
    dense_accuracy: float | None


def against_small_dense(
    candidates: Sequence[Candidate], *, keys: Collection[str], slack: float = 0.02
) -> list[SmallDense]:
    """Returns, per sparse network and cost, the most accurate dense candidate whose cost is no larger.

    Large-sparse against small-dense: To prune, or not to prune (Zhu and Gupta 2017).

    Args:
        candidates: all that were evaluated, on the same data.
        keys: which sparse networks to compare.
        slack: share by which the dense network may cost more: two latencies are never equal.
    """
    rows = []
    for sparse in candidates:
        if sparse.dense or sparse.key not in keys:
            continue
        for cost, value in sparse.costs.items():
            fitting = [c for c in candidates if c.dense and c.costs.get(cost, inf) <= value * (1.0 + slack)]
            best = max(fitting, key=lambda c: c.accuracy, default=None)
            rows.append(
                SmallDense(
                    sparse.key,
                    cost,
                    value,
                    sparse.accuracy,
                    None if best is None else best.key,
                    None if best is None else best.costs[cost],
                    None if best is None else best.accuracy,
                )
            )
    return rows
