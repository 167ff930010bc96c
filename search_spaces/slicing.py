"""The one rule that cuts a subnet's tensor out of a super-network's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from search_spaces.architecture import Architecture

Transform = Callable[[Mapping[str, Tensor], str, torch.Size, "Architecture"], Tensor]
"""A registered exception: (all full tensors, name of the wanted tensor, its shape, architecture) -> tensor."""


def slice_tensor(full: Tensor, shape: torch.Size, *, name: str = "tensor") -> Tensor:
    """Returns a view of `full` with the given shape: leading channels, centred kernels.

    Dimensions 0 and 1 keep their first entries; the rest (kernel height, width) keep the centre.

    Raises:
        ValueError: the shape does not fit into the tensor.
    """
    if full.shape == shape:
        return full
    if full.dim() != len(shape) or any(want > have for want, have in zip(shape, full.shape, strict=True)):
        raise ValueError(f"{name} of shape {tuple(shape)} must fit into the full {tuple(full.shape)}.")
    for dim, (want, have) in enumerate(zip(shape, full.shape, strict=True)):
        if want != have:
            start = (have - want) // 2 if dim >= 2 else 0
            full = full.narrow(dim, start, want)
    return full
