"""How one batch teaches a super-network: the sandwich rule with in-place distillation, and its schedules."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hwsearch.training.config import TrainingConfig
from hwsearch.training.distillation import soft_cross_entropy
from hwsearch.training.precision import autocast
from hwsearch.training.recipes.base import straight_through
from hwsearch.training.sampling import (
    Ranking,
    attentive_rows,
    held_back,
    nonzeros_ranking,
    random_rows,
    released,
    smallest,
)
from search_spaces.architecture import Architecture
from search_spaces.supernet import Supernet


def subnet_logits(supernet: Supernet, inputs: Tensor, arch: Architecture, *, through_masks: bool = False) -> Tensor:
    """Returns the subnet's output; with `through_masks`, gradients reach the weights that its genes mask.

    The inputs are first made what the architecture reads (its resolution).
    """
    inputs = supernet.family.prepare(inputs, arch)
    if not through_masks or supernet.sparsity is None:
        return supernet(inputs, arch)  # type: ignore[no-any-return]
    weights = supernet.weights(arch, masks={})
    for name, mask in supernet.masks(arch).items():
        weights[name] = straight_through(weights[name], mask)
    skeleton = supernet.build(arch)
    skeleton.train(supernet.training)
    logits: Tensor = torch.func.functional_call(skeleton, weights, (inputs,))
    return logits


class SandwichLearner:
    """Largest subnet on the labels; the smallest and random ones on the largest one's soft labels.

    Gradients of all subnets are summed and applied in one optimizer step. Source: Universally Slimmable
    Networks (Yu and Huang 2019), sections 3.2-3.3 and algorithm 1.

    Args:
        supernet: whose full weights learn.
        config: for `schedule` and its settings, `n_random`, `temperature`, `label_smoothing` and `seed`.
        n_steps: of the training; phases of `progressive` are shares of it.
        ranking: predicted quality for `attentive`; by default the number of non-zeros.
    """

    def __init__(
        self, supernet: Supernet, config: TrainingConfig, *, n_steps: int = 1, ranking: Ranking | None = None
    ) -> None:
        self.supernet, self.config, self.n_steps = supernet, config, n_steps
        self.ranking = ranking or nonzeros_ranking(supernet)
        self._largest = supernet.space.largest()
        self._smallest = supernet.space.row(smallest(supernet))[None]

    def students(self, step: int) -> list[Architecture]:
        """Returns the subnets that learn from the largest one in a step."""
        space, config = self.supernet.space, self.config
        if config.schedule == "attentive":
            drawn = attentive_rows(
                space,
                config.seed,
                step,
                config.n_random,
                pool=config.pool,
                ranking=self.ranking,
                prefer=config.attentive,
            )
        else:
            drawn = random_rows(space, config.seed, step, config.n_random)
        rows = np.concatenate([self._smallest, drawn])
        if config.schedule == "progressive":
            rows = held_back(space, rows, config.phases, released(step / self.n_steps, config.phases))
        # The largest one would learn from itself: its gradient is zero.
        return [arch for arch in space.architectures(rows) if arch != self._largest]

    def learn(self, inputs: Tensor, targets: Tensor, step: int) -> float:
        """Adds the gradients of one batch to the full weights; returns the largest subnet's loss on the labels.

        Args:
            inputs: (batch, ...).
            targets: (batch,) classes.
            step: decides, with the seed, which random subnets are drawn.
        """
        teacher = self._logits(inputs, self._largest)
        loss = F.cross_entropy(teacher, targets, label_smoothing=self.config.label_smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        for arch in self.students(step):
            soft = soft_cross_entropy(self._logits(inputs, arch), teacher, self.config.temperature)
            soft.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def _logits(self, inputs: Tensor, arch: Architecture) -> Tensor:
        with autocast(self.config, inputs):
            logits = subnet_logits(self.supernet, inputs, arch, through_masks=self.config.straight_through)
        return logits.float()


class SinglePathLearner:
    """One uniformly drawn subnet per step, on the labels. Source: Single Path One-Shot (Guo et al. 2020).

    Args:
        supernet: whose full weights learn.
        config: for `label_smoothing` and `seed`.
    """

    def __init__(self, supernet: Supernet, config: TrainingConfig) -> None:
        self.supernet, self.config = supernet, config

    def learn(self, inputs: Tensor, targets: Tensor, step: int) -> float:
        """Adds the gradients of one batch; returns the drawn subnet's loss on the labels."""
        (arch,) = self.supernet.space.architectures(random_rows(self.supernet.space, self.config.seed, step, 1))
        with autocast(self.config, inputs):
            logits = subnet_logits(self.supernet, inputs, arch, through_masks=self.config.straight_through)
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=self.config.label_smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())
