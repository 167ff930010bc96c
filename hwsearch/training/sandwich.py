"""The sandwich rule with in-place distillation: how one batch teaches a super-network."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hwsearch.training.config import TrainingConfig
from hwsearch.training.sampling import random_subnets, smallest
from search_spaces.supernet import Supernet


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Returns the mean over the batch of -sum_c p_c log q_c, times temperature squared.

    p = softmax(teacher / temperature), q = softmax(student / temperature). Its gradient equals that of the
    Kullback-Leibler divergence. Source: Hinton et al. 2015, section 2.

    Args:
        student: logits (batch, classes).
        teacher: logits (batch, classes); no gradient flows to them.
        temperature: positive; larger is softer.
    """
    p = torch.softmax(teacher.detach() / temperature, dim=1)
    log_q = torch.log_softmax(student / temperature, dim=1)
    return -(p * log_q).sum(dim=1).mean() * temperature**2


class SandwichLearner:
    """Largest subnet on the labels; the smallest and random ones on the largest one's soft labels.

    Gradients of all subnets are summed and applied in one optimizer step. Source: Universally Slimmable
    Networks (Yu and Huang 2019), sections 3.2-3.3 and algorithm 1.

    Args:
        supernet: whose full weights learn.
        config: for `n_random`, `temperature`, `label_smoothing` and `seed`.
    """

    def __init__(self, supernet: Supernet, config: TrainingConfig) -> None:
        self.supernet, self.config = supernet, config
        self._largest = supernet.space.largest()
        self._smallest = smallest(supernet)

    def learn(self, inputs: Tensor, targets: Tensor, step: int) -> float:
        """Adds the gradients of one batch to the full weights; returns the largest subnet's loss on the labels.

        Args:
            inputs: (batch, ...).
            targets: (batch,) classes.
            step: decides, with the seed, which random subnets are drawn.
        """
        teacher = self.supernet(self.supernet.family.prepare(inputs, self._largest), self._largest)
        loss = F.cross_entropy(teacher, targets, label_smoothing=self.config.label_smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        students = [self._smallest] if self._smallest != self._largest else []
        students += random_subnets(self.supernet, self.config.seed, step, self.config.n_random)
        for arch in students:
            student = self.supernet(self.supernet.family.prepare(inputs, arch), arch)
            soft = soft_cross_entropy(student, teacher, self.config.temperature)
            soft.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())
