"""TrainingConfig: everything that decides how weights are trained, as it stands in YAML."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TrainingConfig(BaseModel):
    """Optimizer, schedule, batches and the sandwich of a training.

    Args:
        epochs: passes over the train split.
        seconds: stop after so much wall time even if epochs remain; the learning rate then follows whichever
            of the two bounds is nearer, and the result depends on the machine's speed.
        batch_size: full batches only.
        optimizer: `adamw` or `sgd` (Nesterov momentum).
        learning_rate: peak, after the warm-up.
        weight_decay: on tensors with two or more dimensions; biases and norms are not decayed.
        momentum: of SGD.
        warmup_epochs: linear from 0 to the peak; then a half cosine down to 0.
        clip_norm: largest L2 norm of all gradients together; None for no clipping.
        label_smoothing: share of the target spread evenly over all classes.
        n_random: random subnets per step, besides the largest and the smallest.
        temperature: of the soft labels of the in-place distillation.
        reorder_epochs: before these epochs (counted from 0) channels are sorted by importance.
        seed: of batches, subnets and augmentation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(default=30, ge=1)
    seconds: float | None = Field(default=None, gt=0.0)
    batch_size: int = Field(default=64, ge=1)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(default=3e-3, gt=0.0)
    weight_decay: float = Field(default=1e-2, ge=0.0)
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    warmup_epochs: float = Field(default=1.0, ge=0.0)
    clip_norm: float | None = Field(default=5.0, gt=0.0)
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    n_random: int = Field(default=2, ge=0)
    temperature: float = Field(default=1.0, gt=0.0)
    reorder_epochs: tuple[int, ...] = ()
    seed: int = Field(default=0, ge=0)
