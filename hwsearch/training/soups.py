"""Iterative magnitude pruning with sparse model soups: prune, retrain several copies, average them, repeat."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from hwsearch.data.dataset import Dataset
from hwsearch.training.config import TrainingConfig
from hwsearch.training.network_training import train_network
from hwsearch.training.progress import Progress, ProgressCallback
from hwsearch.training.recipes.base import prunable
from hwsearch.training.recipes.masking import BudgetName, GivenMask, budget_masks, checked_sparsity
from search_spaces.batchnorm import recalibrate


def round_sparsities(final: float, rounds: int) -> tuple[float, ...]:
    """Returns 1 - (1 - final)^(k / rounds) for k = 1 .. rounds: each round prunes the same share of what is left."""
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, but got {rounds}.")
    return tuple(1.0 - (1.0 - checked_sparsity(final)) ** (k / rounds) for k in range(1, rounds + 1))


@torch.no_grad()
def average(models: Sequence[nn.Module]) -> dict[str, Tensor]:
    """Returns the mean of all floating-point tensors (others: the first model's), by name."""
    if not models:
        raise ValueError("a soup must have at least one member, but got none.")
    states = [model.state_dict() for model in models]
    return {
        name: torch.stack([s[name] for s in states]).mean(0) if first.is_floating_point() else first.clone()
        for name, first in states[0].items()
    }


@dataclass(frozen=True)
class SoupRound:
    """What one round did.

    Args:
        sparsity: after its pruning.
        final_losses: last epoch's training loss of each member.
    """

    sparsity: float
    final_losses: tuple[float, ...]


def prune_and_soup(
    model: nn.Module,
    dataset: Dataset,
    config: TrainingConfig,
    *,
    sparsity: float,
    rounds: int = 3,
    members: int = 3,
    decays: Sequence[float] = (),
    budget: BudgetName = "global",
    keep_dense: Iterable[str] = (),
    progress: ProgressCallback | None = None,
) -> tuple[dict[str, Tensor], tuple[SoupRound, ...]]:
    """Prunes a trained model in place to the sparsity; returns its masks and what each round did.

    A round prunes by magnitude, retrains `members` copies that share the mask and differ in batch order (and in
    weight decay, where `decays` are given), and averages them; the average is what the next round prunes. BatchNorm
    statistics of an average are set anew from training data. Source: Sparse Model Soups (Zimmer et al. 2024), alg. 1;
    one member is plain iterative magnitude pruning (Han et al. 2015).

    Args:
        model: trained.
        dataset: its train split is read.
        config: of one retraining; member i uses seed + i of a round's own stream.
        sparsity: at the end.
        rounds: of pruning.
        members: copies per round.
        decays: weight decay of each member, cyclic; by default the configuration's.
        budget: how sparsity is shared out.
        keep_dense: modules that are not pruned.
        progress: called after every step of every member, with steps counted over the whole soup.
    """
    if members < 1:
        raise ValueError(f"members must be at least 1, but got {members}.")
    keep = tuple(keep_dense)
    told, masks = [], {}
    for number, target in enumerate(round_sparsities(sparsity, rounds)):
        masks = budget_masks(prunable(model, keep), target, budget=budget)
        copies, losses = [], []
        for member in range(members):
            clone = copy.deepcopy(model)
            update: dict[str, object] = {"seed": config.seed + 1000 * (number + 1) + member}
            if decays:
                update["weight_decay"] = decays[member % len(decays)]
            settings = config.model_copy(update=update)
            told_so_far = _counted(progress, number * members + member, rounds * members)
            recipes = [GivenMask(masks=masks)]
            result = train_network(clone, dataset, settings, recipes=recipes, keep_dense=keep, progress=told_so_far)
            copies.append(clone)
            losses.append(result.epoch_losses[-1])
        model.load_state_dict(average(copies))
        recalibrate(model, (x for x, _ in dataset.train.batches(256)))
        told.append(SoupRound(target, tuple(losses)))
    model.eval()
    return masks, tuple(told)


def _counted(progress: ProgressCallback | None, done: int, trainings: int) -> ProgressCallback | None:
    """Returns a callback that counts the steps of one of several equal trainings over all of them."""
    if progress is None:
        return None

    def tell(one: Progress) -> None:
        whole = one.elapsed_seconds + one.eta_seconds
        progress(
            replace(
                one,
                step=done * one.n_steps + one.step,
                n_steps=trainings * one.n_steps,
                elapsed_seconds=done * whole + one.elapsed_seconds,
                eta_seconds=(trainings - done - 1) * whole + one.eta_seconds,
            )
        )

    return tell
