"""Elastic input resolution: a gene for the side of the image, and the resizing that goes with it."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from search_spaces.architecture import Architecture
from search_spaces.genes import Gene
from search_spaces.layers import Size
from search_spaces.supernet import Columns

GENE = "resolution"


def resolution_genes(resolutions: Sequence[int]) -> list[Gene]:
    """Returns the gene `resolution`, or none where there is only one choice.

    Raises:
        ValueError: no resolution, or one that is not positive.
    """
    if not resolutions or min(resolutions) < 1:
        raise ValueError(f"resolutions must list at least one positive side, but got {list(resolutions)}.")
    return [Gene(GENE, tuple(resolutions))] if len(resolutions) > 1 else []


def side_of(arch: Architecture | None, default: int) -> int:
    """Returns the side of the images that an architecture reads."""
    return arch.integer(GENE) if arch is not None and GENE in arch else default


def side_column(columns: Columns, default: int) -> Size:
    """Returns the side per architecture (n,), or the fixed one."""
    return columns[GENE].astype("int64") if GENE in columns else default


def at_resolution(images: Tensor, arch: Architecture) -> Tensor:
    """Returns the images as an architecture reads them: resized where the resolution is a gene, else as they are."""
    return resize(images, arch.integer(GENE)) if GENE in arch else images


def resize(images: Tensor, side: int) -> Tensor:
    """Returns images (batch, channels, side, side): bilinear with antialiasing; unchanged where they have this side."""
    if images.shape[-2:] == (side, side):
        return images
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True, align_corners=False)
