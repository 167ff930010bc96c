"""The `mobilenet` family: a small inverted-residual CNN with elastic depth, kernel, expansion and width."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from search_spaces.architecture import Architecture
from search_spaces.blocks import (
    ConvNormAct,
    GlobalMean,
    InvertedResidual,
    conv_norm_layers,
    conv_norm_members,
    inverted_residual_layers,
    make_divisible,
    make_divisible_array,
    mid_channels,
    out_size,
)
from search_spaces.genes import Condition, Gene
from search_spaces.layers import LayerSpec, Size
from search_spaces.resolution import ImageFamily, resolution_genes, side_column
from search_spaces.space import SearchSpace
from search_spaces.supernet import ChannelGroup, Columns


@dataclass(frozen=True)
class Stage:
    """One stage of inverted residuals.

    Args:
        width: choices of output channels of its blocks.
        depth: choices of the number of blocks, at least 1.
        stride: of the first block.
        kernel: choices of the odd depthwise kernel side, per block.
        expand: choices of the expansion ratio, per block.
        se: squeeze-excitation.
        act: activation name.
    """

    width: tuple[int, ...]
    depth: tuple[int, ...] = (1, 2)
    stride: int = 2
    kernel: tuple[int, ...] = (3, 5)
    expand: tuple[float, ...] = (2, 4)
    se: bool = False
    act: str = "relu"

    def __post_init__(self) -> None:
        for name in ("width", "depth", "kernel", "expand"):
            choices = getattr(self, name)
            if not choices or min(choices) <= 0:
                raise ValueError(f"stage.{name} must list at least one positive choice, but got {list(choices)}.")
        if any(k % 2 == 0 for k in self.kernel):
            raise ValueError(f"stage.kernel must be odd, but got {list(self.kernel)}.")
        if self.stride not in (1, 2):
            raise ValueError(f"stage.stride must be 1 or 2, but got {self.stride}.")


class MobileNet(ImageFamily):
    """Stem 3x3, stages of inverted residuals, 1x1 head, global mean, linear classifier; any input size.

    | genes of stage s (in this order), blocks b = 1..max depth | choices |
    |---|---|
    | resolution (only if several are given) | `resolutions` |
    | stage{s}.depth | `Stage.depth`: the first so many blocks exist |
    | stage{s}.width | `Stage.width` |
    | stage{s}.block{b}.kernel, stage{s}.block{b}.expand | `Stage.kernel`, `Stage.expand`; active while b <= depth |

    The first block of a stage has no shortcut, all others an identity shortcut. Mid channels are
    make_divisible(inputs * expand) to multiples of 8, where inputs is what the block reads.

    Args:
        input_shape: (channels, height, width) of one example, square.
        n_classes: outputs.
        stem: channels of the stem. stem_stride: 1 or 2.
        head: channels of the last 1x1 convolution.
        resolutions: sides of the input to choose from, the largest of them `input_shape`'s; None for that one only.
        stages: in order.
    """

    name = "mobilenet"

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        n_classes: int,
        stages: Sequence[Stage],
        stem: int = 16,
        stem_stride: int = 1,
        head: int = 128,
        resolutions: Sequence[int] | None = None,
    ) -> None:
        self.input_shape = tuple(input_shape)
        if len(self.input_shape) != 3 or self.input_shape[1] != self.input_shape[2]:
            raise ValueError(f"input_shape must be (channels, side, side), but got {self.input_shape}.")
        if not stages:
            raise ValueError("stages must not be empty.")
        self.n_classes, self.stem, self.stem_stride, self.head = n_classes, stem, stem_stride, head
        self.stages = tuple(stages)
        resolutions = self.input_shape[1:2] if resolutions is None else resolutions
        genes = resolution_genes(resolutions)
        if max(resolutions) != self.input_shape[1]:
            raise ValueError(
                f"the largest of resolutions must be input_shape's {self.input_shape[1]}, but got {list(resolutions)}."
            )
        for s, stage in enumerate(self.stages, start=1):
            genes.append(Gene(f"stage{s}.depth", stage.depth))
            genes.append(Gene(f"stage{s}.width", stage.width))
            for b in range(1, max(stage.depth) + 1):
                when = self._when(s, b)
                genes.append(Gene(f"stage{s}.block{b}.kernel", stage.kernel, active_when=when))
                genes.append(Gene(f"stage{s}.block{b}.expand", stage.expand, active_when=when))
        self.space = SearchSpace(genes)

    def _when(self, s: int, b: int) -> tuple[Condition, ...]:
        depths = self.stages[s - 1].depth
        return () if b <= min(depths) else (Condition(f"stage{s}.depth", tuple(d for d in depths if d >= b)),)

    def build(self, arch: Architecture) -> nn.Module:
        """Returns a `nn.Sequential` of stem, stages, head, pool and classifier."""
        module = nn.Sequential(
            OrderedDict(stem=ConvNormAct(self.input_shape[0], self.stem, 3, stride=self.stem_stride))
        )
        channels = self.stem
        for s, stage in enumerate(self.stages, start=1):
            width = arch.integer(f"stage{s}.width")
            blocks = nn.Sequential()
            for b in range(1, arch.integer(f"stage{s}.depth") + 1):
                block = InvertedResidual(
                    channels,
                    width,
                    make_divisible(channels * float(arch[f"stage{s}.block{b}.expand"])),
                    arch.integer(f"stage{s}.block{b}.kernel"),
                    stride=stage.stride if b == 1 else 1,
                    act=stage.act,
                    se=stage.se,
                    shortcut=b > 1,
                )
                blocks.add_module(f"block{b}", block)
                channels = width
            module.add_module(f"stage{s}", blocks)
        module.add_module("head", ConvNormAct(channels, self.head))
        module.add_module("pool", GlobalMean())
        module.add_module("classifier", nn.Linear(self.head, self.n_classes))
        return module

    def layers(self, columns: Columns) -> list[LayerSpec]:
        """Returns the layers of stem, all possible blocks, head and classifier. Stem and classifier stay dense."""
        size: Size = side_column(columns, self.input_shape[1])
        layers = conv_norm_layers(
            "stem",
            "stem",
            inputs=self.input_shape[0],
            outputs=self.stem,
            size=size,
            kernel=3,
            stride=self.stem_stride,
            prunable=False,
        )
        size = out_size(size, self.stem_stride)
        channels: Size = np.int64(self.stem)
        for s, stage in enumerate(self.stages, start=1):
            width = columns[f"stage{s}.width"].astype(np.int64)
            depth = columns[f"stage{s}.depth"]
            for b in range(1, max(stage.depth) + 1):
                expand = columns[f"stage{s}.block{b}.expand"].astype(np.float64)
                layers += inverted_residual_layers(
                    f"stage{s}.block{b}",
                    f"stage{s}",
                    inputs=channels,
                    outputs=width,
                    mid=make_divisible_array(channels * expand),
                    kernel=columns[f"stage{s}.block{b}.kernel"].astype(np.int64),
                    size=size,
                    stride=stage.stride if b == 1 else 1,
                    se=stage.se,
                    shortcut=b > 1,
                    active=depth >= b,
                    when=self._when(s, b),
                )
                if b == 1:
                    size = out_size(size, stage.stride)
                channels = width
        layers += conv_norm_layers("head", "head", inputs=channels, outputs=self.head, size=size)
        layers.append(
            LayerSpec("classifier", "linear", "classifier", self.head, self.n_classes, bias=True, prunable=False)
        )
        return layers

    def channel_groups(self) -> list[ChannelGroup]:
        """Returns the mid channels of every block and the channels of every stage."""
        groups: list[ChannelGroup] = []
        for s, stage in enumerate(self.stages, start=1):
            for b in range(1, max(stage.depth) + 1):
                groups += mid_channels(f"stage{s}.block{b}", se=stage.se)
            readers = [(f"stage{s}.block{b}.expand.conv.weight", 1) for b in range(2, max(stage.depth) + 1)]
            after = f"stage{s + 1}.block1.expand" if s < len(self.stages) else "head"
            readers.append((f"{after}.conv.weight", 1))
            members = list(readers)
            for b in range(1, max(stage.depth) + 1):
                members += conv_norm_members(f"stage{s}.block{b}.project")
            groups.append(ChannelGroup(tuple(members), score=readers[-1]))
        return groups
