"""The training loop: batches, gradients, optimizer, checkpoints. What a batch teaches is a Learner's business."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from hwsearch.data.dataset import Split
from hwsearch.training.checkpoint import CheckpointError, TrainingState, load_state, save_state, split_tensors
from hwsearch.training.config import TrainingConfig
from hwsearch.training.group import Group
from hwsearch.training.optimizer import load_optimizer_tensors, make_optimizer, optimizer_tensors
from hwsearch.training.progress import Progress, ProgressCallback
from hwsearch.training.recipes.base import Recipe, Session, check_combination
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
    recipes: Sequence[Recipe] = (),
    targets: Mapping[str, nn.Parameter] | None = None,
    checkpoint: Path | None = None,
    progress: ProgressCallback | None = None,
    before_epoch: EpochHook | None = None,
    device: str = "cpu",
    group: Group | None = None,
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
        recipes: hooks, in order.
        targets: weights that recipes may make sparse.
        checkpoint: file written after every epoch, and read first if it exists.
        progress: called after every step.
        before_epoch: called with the epoch (from 0) and the optimizer, before the epoch's first step.
        device: where the model is and batches go.
        group: processes that share every batch; rank 0 writes the checkpoint, and all read it.

    Raises:
        CheckpointError: the checkpoint is broken or of another training.
        RecipeError: recipes that contradict each other or do not fit the model.
        ValueError: batch_size larger than the split; a loss that is not finite.
    """
    steps_per_epoch = len(split) // config.batch_size
    if steps_per_epoch == 0:
        raise ValueError(
            f"training.batch_size must be at most the {len(split)} examples of the train split, "
            f"but got {config.batch_size}."
        )
    check_combination(recipes)
    group = group or Group()
    # oneDNN's backward convolutions are 2-3 times faster in this layout; slices of the weights keep it.
    set_layout(model, torch.channels_last)
    run = _Run(model, config, make_optimizer(model, config), tuple(recipes), steps_per_epoch * config.epochs, group)
    try:
        for recipe in recipes:
            recipe.start(Session(model, run.optimizer, run.n_steps, config.seed, targets or {}))
        state = TrainingState(digest)
        if checkpoint is not None and checkpoint.exists():
            state = run.restore(checkpoint, digest)
        model.train()
        spent_before, started = state.elapsed_seconds, time.perf_counter()
        while not state.finished:
            with torch.random.fork_rng(devices=[]):
                # Layers that draw their own random numbers (dropout) follow the epoch's stream as well.
                stream = [config.seed, state.epoch, 1, *([group.rank] if group.rank else [])]
                torch.manual_seed(int(np.random.default_rng(stream).integers(2**62)))
                if before_epoch is not None:
                    before_epoch(state.epoch, run.optimizer)
                losses: list[float] = []
                for inputs, classes in split.shuffled(
                    config.batch_size,
                    np.random.default_rng([config.seed, state.epoch]),
                    shard=(group.rank, group.size),
                ):
                    elapsed = spent_before + time.perf_counter() - started
                    if config.seconds is not None:
                        elapsed = group.agree(elapsed)  # the learning rate follows it, and the end
                    if config.seconds is not None and elapsed >= config.seconds:
                        state = replace(state, finished=True)
                        break
                    step = state.step + len(losses)
                    rate = run.set_rate(step, elapsed)
                    losses.append(run.step(learner, inputs.to(device), classes.to(device), step))
                    if progress is not None:
                        elapsed = spent_before + time.perf_counter() - started
                        progress(run.progress(state.epoch + 1, step + 1, losses[-1], rate, elapsed))
            epoch = state.epoch + bool(losses)
            state = replace(
                state,
                epoch=epoch,
                step=state.step + len(losses),
                elapsed_seconds=spent_before + time.perf_counter() - started,
                epoch_losses=(*state.epoch_losses, *([float(np.mean(losses))] if losses else [])),
                finished=state.finished or epoch == config.epochs,
            )
            if state.finished:
                run.finish()
            if checkpoint is not None and group.rank == 0:
                save_state(checkpoint, replace(state, tensors=run.tensors(finished=state.finished)))
                group.saved(checkpoint)
    finally:
        for recipe in recipes:
            recipe.stop()
        set_layout(model, torch.contiguous_format)
    model.eval()
    return TrainingResult(digest, state.epoch, state.step, state.elapsed_seconds, state.epoch_losses)


class _Run:
    """One training's moving parts: model, optimizer, recipes, averaged weights."""

    def __init__(
        self,
        model: nn.Module,
        config: TrainingConfig,
        optimizer: torch.optim.Optimizer,
        recipes: tuple[Recipe, ...],
        n_steps: int,
        group: Group,
    ) -> None:
        self.model, self.config, self.optimizer = model, config, optimizer
        self.recipes, self.n_steps, self.group = recipes, n_steps, group
        self.warmup = min(config.warmup_epochs / config.epochs, 0.9)
        self.average: dict[str, Tensor] = {}

    def set_rate(self, step: int, elapsed: float) -> float:
        """Sets and returns the learning rate of a step (from 0)."""
        done = (step + 0.5) / self.n_steps
        if self.config.seconds is not None:
            done = max(done, elapsed / self.config.seconds)
        rate = self.config.learning_rate * rate_factor(done, self.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def step(self, learner: Learner, inputs: Tensor, classes: Tensor, step: int) -> float:
        """Takes one optimizer step; returns the loss."""
        self.optimizer.zero_grad(set_to_none=True)
        parts = min(self.config.accumulate, len(inputs))
        loss = 0.0
        for x, y in zip(inputs.tensor_split(parts), classes.tensor_split(parts), strict=True):
            loss += learner.learn(x, y, step) / parts
        if parts > 1:
            for parameter in self.model.parameters():
                if parameter.grad is not None:
                    parameter.grad.div_(parts)
        loss = self.group.combine(self.model, loss)
        if not np.isfinite(loss):
            raise ValueError(
                f"the training loss must stay finite, but is {loss} at step {step + 1}: "
                "lower training.learning_rate or set training.clip_norm."
            )
        for recipe in self.recipes:
            recipe.on_gradients(step)
        if self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimizer.step()
        for recipe in self.recipes:
            recipe.after_step(step)
        if self.config.ema is not None:
            self._average(self.config.ema)
        return loss

    @torch.no_grad()
    def _average(self, decay: float) -> None:
        if not self.average:
            self.average = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        for name, parameter in self.model.named_parameters():
            self.average[name].lerp_(parameter, 1.0 - decay)

    def progress(self, epoch: int, step: int, loss: float, rate: float, elapsed: float) -> Progress:
        """Returns what the callback is told after `step` steps."""
        remaining = elapsed / step * (self.n_steps - step)
        if self.config.seconds is not None:
            remaining = min(remaining, max(0.0, self.config.seconds - elapsed))
        return Progress(epoch, self.config.epochs, step, self.n_steps, loss, rate, elapsed, remaining)

    @torch.no_grad()
    def finish(self) -> None:
        """Puts the averaged weights in place, then lets recipes make the plain parameters final."""
        for name, parameter in self.model.named_parameters():
            if name in self.average:
                parameter.copy_(self.average[name])
        for recipe in self.recipes:
            recipe.finish()

    def tensors(self, *, finished: bool) -> dict[str, Tensor]:
        """Returns everything that a checkpoint must hold."""
        out = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        for i, recipe in enumerate(self.recipes):
            out |= {f"recipe{i}/{name}": tensor for name, tensor in recipe.state().items()}
        if not finished:
            out |= {f"optimizer/{n}": t for n, t in optimizer_tensors(self.optimizer, self.model).items()}
            out |= {f"average/{name}": tensor for name, tensor in self.average.items()}
        return out

    def restore(self, path: Path, digest: str) -> TrainingState:
        """Takes over a checkpoint; returns its state without the tensors."""
        state = load_state(path)
        if state.digest != digest:
            raise CheckpointError(
                f"checkpoint {path} must be of this training ({digest[:12]}), but is of another "
                f"({state.digest[:12]}): model, data or training settings differ."
            )
        try:
            self.model.load_state_dict(split_tensors(state.tensors, "model"))
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise CheckpointError(f"checkpoint {path} must hold the weights of this model, but: {reason}") from error
        load_optimizer_tensors(self.optimizer, self.model, split_tensors(state.tensors, "optimizer"))
        parameters = dict(self.model.named_parameters())
        for name, tensor in split_tensors(state.tensors, "average").items():
            self.average[name] = torch.empty_like(parameters[name]).copy_(tensor).detach()
        for i, recipe in enumerate(self.recipes):
            recipe.load_state(split_tensors(state.tensors, f"recipe{i}"))
        return replace(state, tensors={})


def set_layout(model: nn.Module, layout: torch.memory_format) -> None:
    """Stores all kernels (tensors of four dimensions) of `model` in a memory layout; values stay the same."""
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)
