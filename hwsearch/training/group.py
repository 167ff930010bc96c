"""The processes that train together: every one takes a part of each batch, and all take the same step."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch import distributed as dist

from hwsearch.errors import UserError
from hwsearch.training.aggregation import Aggregation, aggregate
from hwsearch.training.config import TrainingConfig


class Group:
    """One process that trains alone; what several do differently is in `ProcessGroup`."""

    rank = 0
    size = 1

    def combine(self, model: nn.Module, loss: float) -> float:
        """Replaces the gradients by those of the whole batch; returns its loss."""
        return loss

    def agree(self, value: float) -> float:
        """Returns the value of rank 0."""
        return value

    def saved(self, path: Path) -> None:
        """Called on rank 0 when it has written a checkpoint."""


class ProcessGroup(Group):
    """The default group of torch.distributed, in which this process already is.

    A step of a super-network has several backward passes, and not every one reaches all weights. So gradients are
    combined once per step, when all of it is summed, and not during each pass as DistributedDataParallel does. All
    ranks draw the same subnets from the step's number: a weight without a gradient has none on any rank.

    Args:
        config: for `aggregation` and `n_faulty`.
        device: where gradients are.
    """

    def __init__(self, config: TrainingConfig, *, device: str = "cpu") -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.kind: Aggregation = config.aggregation
        self.n_faulty, self.device = config.n_faulty, device

    @torch.no_grad()
    def combine(self, model: nn.Module, loss: float) -> float:
        """Replaces the gradients by those of the whole batch; returns its loss."""
        if self.size == 1:
            return loss
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        last = torch.tensor([loss], device=self.device)
        flat = torch.cat([*(g.reshape(-1) for g in gradients), last])
        if self.kind == "mean":
            dist.all_reduce(flat)
            flat /= self.size
        else:
            flat = self._robust(flat)
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view(gradient.shape))
            start += gradient.numel()
        return float(flat[-1])

    def _robust(self, flat: Tensor) -> Tensor:
        """Returns what rank 0 makes of everybody's gradients and, last, losses."""
        rows = [torch.empty_like(flat) for _ in range(self.size)] if self.rank == 0 else None
        dist.gather(flat, rows, dst=0)
        if rows is not None:
            stacked = torch.stack(rows)
            loss = aggregate(stacked[:, -1:], "median")
            flat = torch.cat([aggregate(stacked[:, :-1], self.kind, n_faulty=self.n_faulty), loss])
        dist.broadcast(flat, src=0)
        return flat

    def agree(self, value: float) -> float:
        """Returns the value of rank 0."""
        shared = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.broadcast(shared, src=0)
        return float(shared)


def check_workers(config: TrainingConfig, n_workers: int) -> None:
    """Checks that a training can be shared by so many workers.

    Raises:
        UserError: parts of a batch of different size, or too few workers for the aggregation.
    """
    if config.batch_size % n_workers:
        raise UserError(
            f"training.batch_size must be a multiple of executor.training.workers = {n_workers}, "
            f"but got {config.batch_size}."
        )
    least = {"mean": 1, "median": 3, "trimmed_mean": 2 * config.n_faulty + 1, "flag": 3}[config.aggregation]
    if n_workers < least:
        raise UserError(
            f"executor.training.workers must be at least {least} for training.aggregation: {config.aggregation}, "
            f"but got {n_workers}."
        )
