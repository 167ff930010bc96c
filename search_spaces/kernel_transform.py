"""Once-for-All's kernel transform: small depthwise kernels are linear maps of the centre of larger ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.slicing import Transform, slice_tensor

if TYPE_CHECKING:
    from search_spaces.architecture import Architecture


def matrix_name(large: int, small: int) -> str:
    """Returns the name, beside the weight, of the matrix that maps a `large` kernel's centre to a `small` kernel."""
    return f"matrix_{large}to{small}"


def add_matrices(conv: nn.Conv2d, kernels: Sequence[int]) -> None:
    """Registers one identity matrix per step from a larger to the next smaller of `kernels`, on the convolution."""
    for large, small in pairwise(sorted(kernels, reverse=True)):
        conv.register_parameter(matrix_name(large, small), nn.Parameter(torch.eye(small * small)))


def kernel_transform(kernels: Sequence[int]) -> Transform:
    """Returns the exception from the slicing rule for a convolution with `add_matrices`.

    From the largest kernel step by step: crop the centre, flatten it row by row, multiply by the step's matrix,
    `crop @ M.T`. Only the wanted channels are transformed. Source: Cai et al. 2020, section 3.3 and
    `DynamicSeparableConv2d` with KERNEL_TRANSFORM_MODE 1.
    """
    steps = tuple(pairwise(sorted(kernels, reverse=True)))

    def transform(full: Mapping[str, Tensor], name: str, shape: torch.Size, arch: Architecture) -> Tensor:
        weight = full[name]
        owner = name.removesuffix("weight")
        largest = weight.shape[2:]
        weight = slice_tensor(weight, torch.Size((*shape[:2], *largest)), name=name)
        for large, small in steps:
            if small < shape[2]:
                break
            crop = slice_tensor(weight, torch.Size((*shape[:2], small, small)), name=name)
            matrix = full[owner + matrix_name(large, small)]
            weight = F.linear(crop.reshape(-1, small * small), matrix).view(*shape[:2], small, small)
        return weight

    return transform
