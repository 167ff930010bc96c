"""Optimizers over full weights, and their state as named tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hwsearch.training.config import TrainingConfig
from search_spaces.supernet import ChannelGroup


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Returns the optimizer of a configuration; matrices and kernels decay, biases and norms do not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate)
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, nesterov=config.momentum > 0.0)


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Returns `<parameter>/<slot>` -> tensor (moments, step counts) of everything the optimizer remembers."""
    out = {}
    for name, parameter in model.named_parameters():
        for slot, value in optimizer.state.get(parameter, {}).items():
            if value is not None:
                out[f"{name}/{slot}"] = torch.as_tensor(value)
    return out


@torch.no_grad()
def load_optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Gives a fresh optimizer the memory that `optimizer_tensors` returned."""
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        name, slot = key.rsplit("/", 1)
        parameter = parameters[name]
        same = value.shape == parameter.shape and slot != "step"
        # In the parameter's own memory layout, as an uninterrupted training has it.
        optimizer.state[parameter][slot] = torch.empty_like(parameter).copy_(value) if same else value.clone()


@torch.no_grad()
def permute_optimizer(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    groups: list[ChannelGroup],
    permutations: Mapping[str, Tensor],
) -> None:
    """Permutes the optimizer's memory as `reorder_channels` permuted the weights.

    Args:
        optimizer: whose state changes in place.
        model: the full module that the groups' names refer to.
        groups: the coupled channels, in the order in which they were permuted.
        permutations: score tensor's name -> permutation, as `reorder_channels` returns.
    """
    parameters = dict(model.named_parameters())
    for group in groups:
        order = permutations[group.score[0]]
        for name, dim in group.members:
            if name not in parameters:
                continue  # a buffer: no gradient, no memory
            parameter = parameters[name]
            for slot, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    optimizer.state[parameter][slot] = value.index_select(dim, order)
