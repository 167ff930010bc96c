"""Distillation: what a network may learn from a teacher besides labels: logits, spatial attention, representations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize


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


def attention_map(features: Tensor) -> Tensor:
    """Returns sum over channels of squared features, L2-normalised per example, (batch, height * width).

    Source: Paying More Attention to Attention (Zagoruyko and Komodakis 2017), section 3.1, p = 2.
    """
    return normalize(features.square().sum(1).flatten(1), dim=1)


def attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Returns the mean squared distance of the two attention maps; heights and widths must agree, channels need not.

    Args:
        student: features (batch, channels, height, width).
        teacher: features (batch, other channels, height, width); no gradient flows to them.
    """
    if student.shape[2:] != teacher.shape[2:]:
        raise ValueError(
            f"attention maps must have one size, but got {tuple(student.shape[2:])} and {tuple(teacher.shape[2:])}."
        )
    return (attention_map(student) - attention_map(teacher.detach())).square().sum(1).mean()


def linear_cka(x: Tensor, y: Tensor) -> Tensor:
    """Returns the linear centred kernel alignment of two representations, in [0, 1].

    ||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F) of centred X, Y. Invariant to rotations, isotropic scaling and shifts of
    either. Source: Kornblith et al. 2019, eq. for linear CKA.

    Args:
        x: (batch, ...), flattened to (batch, features).
        y: (batch, ...).
    """
    x, y = x.flatten(1), y.flatten(1)
    x, y = x - x.mean(0), y - y.mean(0)
    # Gram matrices are (batch, batch), however wide the features are: ||Y^T X||_F^2 = <X X^T, Y Y^T>.
    gram_x, gram_y = x @ x.T, y @ y.T
    tiny = torch.finfo(x.dtype).tiny
    similarity: Tensor = (gram_x * gram_y).sum() / (gram_x.norm() * gram_y.norm()).clamp_min(tiny)
    return similarity


def alignment_loss(student: Tensor, guide: Tensor) -> Tensor:
    """Returns 1 - linear CKA to a guide's representation, trained or not.

    Source: Training the Untrainable (Subramaniam et al. 2024): representational alignment as a loss.
    """
    return 1.0 - linear_cka(student, guide.detach())


@dataclass(frozen=True)
class Distillation:
    """One term of the loss.

    Args:
        kind: `logits`, `attention` (feature maps) or `alignment` (any representation).
        weight: factor of the term; non-negative.
        temperature: of the soft labels.
        layers: for features: module name in the student -> module name in the teacher.
    """

    kind: Literal["logits", "attention", "alignment"] = "logits"
    weight: float = 1.0
    temperature: float = 1.0
    layers: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.weight < 0.0 or self.temperature <= 0.0:
            raise ValueError(
                f"distillation must have weight >= 0 and temperature > 0, but got {self.weight}, {self.temperature}."
            )
        if (self.kind == "logits") == bool(self.layers):
            raise ValueError(f"{self.kind} distillation must {'not ' * (self.kind == 'logits')}name pairs of layers.")

    def loss(
        self, outputs: tuple[Tensor, Tensor], features: tuple[Mapping[str, Tensor], Mapping[str, Tensor]]
    ) -> Tensor:
        """Returns the weighted term.

        Args:
            outputs: logits of student and teacher.
            features: module outputs by name, of student and teacher.
        """
        if self.kind == "logits":
            return self.weight * soft_cross_entropy(*outputs, self.temperature)
        term = attention_loss if self.kind == "attention" else alignment_loss
        parts = [term(features[0][s], features[1][t]) for s, t in self.layers]
        return self.weight * torch.stack(parts).mean()
