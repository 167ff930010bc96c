"""The training loop: batches, gradients, optimizer, checkpoints. What a batch teaches is a Learner's business."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from hwsearch.data.dataset import Split
from hwsearch.training.checkpoint import CheckpointError, TrainingState, load_state, save_state, split_tensors
from hwsearch.training.config import TrainingConfig
from hwsearch.training.optimizer import load_optimizer_tensors, make_optimizer, optimizer_tensors
from hwsearch.training.progress import Progress, ProgressCallback
from hwsearch.training.schedule import rate_factor


class Learner(Protocol):
    """Turns a batch into gradients."""

    def learn(self, inputs: Tensor, targets: Tensor, step: int) -> float:
        """Adds gradients to the model's parameters; returns the loss to be reported."""


@dataclass(frozen=True)
class TrainingResult:
    """What a finished training tells.

    Args:
        digest: of what was trained.
        epochs: passes done, the last one perhaps in part.
        steps: optimizer steps done.
        seconds: wall time, earlier sessions included.
        epoch_losses: mean reported loss of each epoch.
    """

    digest: str
    epochs: int
    steps: int
    seconds: float
    epoch_losses: tuple[float, ...]


EpochHook = Callable[[int, torch.optim.Optimizer], None]


def fit(
    model: nn.Module,
    learner: Learner,
    *,
    split: Split,
    config: TrainingConfig,
    digest: str = "",
    checkpoint: Path | None = None,
    progress: ProgressCallback | None = None,
    before_epoch: EpochHook | None = None,
    device: str = "cpu",
) -> TrainingResult:
    """Trains `model` in place and leaves it in eval mode; with a checkpoint, goes on where an earlier call stopped.

    Every random number comes from streams numbered by epoch or step, so that a resumed training takes exactly
    the steps of an uninterrupted one; on a CPU with the same number of threads its weights are bit-equal.

    Args:
        model: owns the parameters and buffers.
        learner: produces their gradients.
        split: the train split.
        config: of the training.
        digest: identifies model, data and configuration; a checkpoint of another digest is refused.
        checkpoint: file written after every epoch, and read first if it exists.
        progress: called after every step.
        before_epoch: called with the epoch (from 0) and the optimizer, before the epoch's first step.
        device: where the model is and batches go.

    Raises:
        CheckpointError: the checkpoint is broken or of another training.
        ValueError: batch_size larger than the split; a loss that is not finite.
    """
    steps_per_epoch = len(split) // config.batch_size
    if steps_per_epoch == 0:
        raise ValueError(
            f"training.batch_size must be at most the {len(split)} examples of the train split, "
            f"but got {config.batch_size}."
        )
    n_steps = steps_per_epoch * config.epochs
    warmup = min(config.warmup_epochs / config.epochs, 0.9)
    # oneDNN's backward convolutions are 2-3 times faster in this layout; slices of the weights keep it.
    set_layout(model, torch.channels_last)
    optimizer = make_optimizer(model, config)
    state = TrainingState(digest)
    if checkpoint is not None and checkpoint.exists():
        state = _restored(checkpoint, digest, model, optimizer)
    spent_before, started = state.elapsed_seconds, time.perf_counter()
    epoch, step, losses, finished = state.epoch, state.step, list(state.epoch_losses), state.finished
    model.train()
    while not finished and epoch < config.epochs:
        with torch.random.fork_rng(devices=[]):
            # Layers that draw their own random numbers (dropout) follow the epoch's stream as well.
            torch.manual_seed(int(np.random.default_rng([config.seed, epoch, 1]).integers(2**62)))
            if before_epoch is not None:
                before_epoch(epoch, optimizer)
            total, count = 0.0, 0
            for inputs, targets in split.shuffled(config.batch_size, np.random.default_rng([config.seed, epoch])):
                elapsed = spent_before + time.perf_counter() - started
                done = (step + 0.5) / n_steps
                if config.seconds is not None:
                    if elapsed >= config.seconds:
                        finished = True
                        break
                    done = max(done, elapsed / config.seconds)
                rate = config.learning_rate * rate_factor(done, warmup)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.zero_grad(set_to_none=True)
                loss = learner.learn(inputs.to(device), targets.to(device), step)
                if not np.isfinite(loss):
                    raise ValueError(
                        f"the training loss must stay finite, but is {loss} at step {step + 1}: "
                        "lower training.learning_rate or set training.clip_norm."
                    )
                if config.clip_norm is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
                optimizer.step()
                step, total, count = step + 1, total + loss, count + 1
                if progress is not None:
                    elapsed = spent_before + time.perf_counter() - started
                    remaining = elapsed / step * (n_steps - step)
                    if config.seconds is not None:
                        remaining = min(remaining, max(0.0, config.seconds - elapsed))
                    progress(Progress(epoch + 1, config.epochs, step, n_steps, loss, rate, elapsed, remaining))
        if count:
            epoch += 1
            losses.append(total / count)
        finished = finished or epoch == config.epochs
        if checkpoint is not None:
            elapsed = spent_before + time.perf_counter() - started
            save_state(checkpoint, _captured(digest, epoch, step, elapsed, losses, finished, model, optimizer))
    set_layout(model, torch.contiguous_format)
    model.eval()
    return TrainingResult(digest, epoch, step, spent_before + time.perf_counter() - started, tuple(losses))


def set_layout(model: nn.Module, layout: torch.memory_format) -> None:
    """Stores all kernels (tensors of four dimensions) of `model` in a memory layout; values stay the same."""
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)


def _captured(
    digest: str,
    epoch: int,
    step: int,
    elapsed: float,
    losses: list[float],
    finished: bool,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> TrainingState:
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    if not finished:
        tensors |= {f"optimizer/{name}": tensor for name, tensor in optimizer_tensors(optimizer, model).items()}
    return TrainingState(digest, epoch, step, elapsed, tuple(losses), finished, tensors)


def _restored(path: Path, digest: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> TrainingState:
    state = load_state(path)
    if state.digest != digest:
        raise CheckpointError(
            f"checkpoint {path} must be of this training ({digest[:12]}), but is of another ({state.digest[:12]}): "
            "model, data or training settings differ."
        )
    weights = split_tensors(state.tensors, "model")
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"checkpoint {path} must hold the weights of this model, but: {reason}") from error
    load_optimizer_tensors(optimizer, model, split_tensors(state.tensors, "optimizer"))
    return state
