"""Channel ordering: put important channels first, so that a leading slice keeps them."""

from __future__ import annotations

import torch
from torch import Tensor

from search_spaces.supernet import ChannelGroup, Supernet


def importance(weight: Tensor, dim: int, block: int = 1) -> Tensor:
    """Returns the L1 norm of every channel (or block of channels) of `weight` along `dim`, (channels / block,)."""
    rows = weight.detach().movedim(dim, 0).flatten(1)
    return rows.abs().sum(1).view(-1, block).sum(1)


@torch.no_grad()
def reorder_channels(supernet: Supernet, groups: list[ChannelGroup] | None = None) -> dict[str, Tensor]:
    """Sorts coupled channels of the full weights by descending importance, in place; the largest net stays the same.

    Ties keep their order. Source: Once-for-All (Cai et al. 2020), channel sorting before elastic width.

    Args:
        supernet: whose full tensors are permuted.
        groups: by default the family's.

    Returns:
        Score tensor's name -> the permutation that was applied.
    """
    tensors = supernet.tensors()
    applied = {}
    for group in supernet.family.channel_groups() if groups is None else groups:
        name, dim = group.score
        order = importance(tensors[name], dim, group.block).argsort(descending=True, stable=True)
        if group.block > 1:
            order = (order[:, None] * group.block + torch.arange(group.block)).flatten()
        for member, member_dim in group.members:
            tensors[member].copy_(tensors[member].index_select(member_dim, order))
        applied[name] = order
    return applied
