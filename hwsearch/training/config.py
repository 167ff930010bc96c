"""TrainingConfig: everything that decides how weights are trained, as it stands in YAML."""

from __future__ import annotations

from typing import Any, Literal

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
        schedule: which subnets a step of a super-network trains: `sandwich` (largest, smallest and random ones),
            `single_path` (one random subnet on the labels), `progressive` (a sandwich over choices that are
            released in `phases`), `attentive` (a sandwich whose random subnets are the best or worst of a pool).
        phases: kinds of genes in the order in which `progressive` releases their smaller choices; kinds that are
            not listed are free from the beginning.
        attentive: `best` or `worst` of the pool, by predicted rank. pool: drawn subnets per one that is trained.
        straight_through: gradients reach weights that a sparsity gene masks; else they are zero there.
        accumulate: parts into which a batch is cut; gradients are averaged, memory is saved.
        ema: decay per step of an average of the weights that replaces them at the end; None for none.
        precision: `bf16` runs the forward pass in mixed precision.
        aggregation: of the gradients of several workers: `mean`, or what a faulty minority cannot spoil: `median` (of
            every coordinate), `trimmed_mean`, `flag` (the mean within the subspace on which they agree).
        n_faulty: how many workers may be wrong; `trimmed_mean` drops so many values at either end.
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
    schedule: Literal["sandwich", "single_path", "progressive", "attentive"] = "sandwich"
    phases: tuple[Literal["kernel", "depth", "width", "sparsity", "rank"], ...] = ("kernel", "depth", "width")
    attentive: Literal["best", "worst"] = "best"
    pool: int = Field(default=8, ge=2)
    straight_through: bool = False
    accumulate: int = Field(default=1, ge=1)
    ema: float | None = Field(default=None, gt=0.0, lt=1.0)
    precision: Literal["fp32", "bf16"] = "fp32"
    aggregation: Literal["mean", "median", "trimmed_mean", "flag"] = "mean"
    n_faulty: int = Field(default=1, ge=1)
    seed: int = Field(default=0, ge=0)

    def identity(self) -> dict[str, Any]:
        """Returns what decides the weights, as plain data: what no worker reads is left out."""
        alone = {"aggregation", "n_faulty"} if self.aggregation == "mean" else set[str]()
        return self.model_dump(mode="json", exclude=alone)
