"""Elastic input resolution: a gene for the side of the image, and the resizing that goes with it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from search_spaces.architecture import Architecture
from search_spaces.genes import Gene
from search_spaces.layers import Size
from search_spaces.supernet import Columns, Family

GENE = "resolution"


def resolution_genes(resolutions: Sequence[int]) -> list[Gene]:
    """Returns the gene `resolution`, or none where there is only one choice.

    Raises:
        ValueError: no resolution, or one that is not positive.
    """
    if not resolutions or min(resolutions) < 1:
        raise ValueError(f"resolutions must list at least one positive side, but got {list(resolutions)}.")
    return [Gene(GENE, tuple(resolutions))] if len(resolutions) > 1 else []


def side_column(columns: Columns, default: int) -> Size:
    """Returns the side per architecture (n,), or the fixed one."""
    return columns[GENE].astype("int64") if GENE in columns else default


def resize(images: Tensor, side: int) -> Tensor:
    """Returns images (batch, channels, side, side): bilinear with antialiasing; unchanged where they have this side."""
    if images.shape[-2:] == (side, side):
        return images
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True, align_corners=False)


class ImageFamily(Family):
    """A family that reads square images of any side; with the gene `resolution`, every architecture has its own."""

    def prepare(self, inputs: Tensor, arch: Architecture) -> Tensor:
        """Returns images (batch, channels, side, side) resized to the architecture's resolution, if it has one."""
        return resize(inputs, arch.integer(GENE)) if GENE in arch else inputs

    def example_inputs(
        self, *, batch: int = 1, generator: torch.Generator | None = None, arch: Architecture | None = None
    ) -> tuple[Tensor, ...]:
        """Returns random images of the architecture's resolution, of the largest one without an architecture."""
        side = arch.integer(GENE) if arch is not None and GENE in arch else self.input_shape[1]
        return (torch.randn(batch, self.input_shape[0], side, side, generator=generator),)
