"""Once-for-All's inverted-residual super-networks, whatever their layout: genes, modules and layers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from search_spaces.architecture import Architecture
from search_spaces.blocks import (
    ACTIVATIONS,
    ConvNormAct,
    GlobalMean,
    InvertedResidual,
    conv_norm_layers,
    inverted_residual_layers,
    make_divisible,
    make_divisible_array,
    mid_channels,
    out_size,
)
from search_spaces.genes import Condition, Gene
from search_spaces.kernel_transform import add_matrices, kernel_transform
from search_spaces.layers import LayerSpec, Size
from search_spaces.resolution import ImageFamily, resolution_genes, side_column
from search_spaces.space import SearchSpace
from search_spaces.supernet import ChannelGroup, Columns


@dataclass(frozen=True)
class OfaStage:
    """One stage: `depth` lists how many of its first blocks may exist; all blocks have one width."""

    width: int
    depth: tuple[int, ...]
    stride: int
    act: str
    se: bool = False


@dataclass(frozen=True)
class OfaLayout:
    """What is fixed in one of the networks; widths before the width multiplier.

    Args:
        stem: channels of the 3x3 convolution. stem_stride: 1 or 2. first: channels of the first, fixed block.
        stages: in order. head: channels of the last convolution with BatchNorm.
        mix: channels of a 1x1 convolution without BatchNorm after the mean; None for none.
        act: of stem, head and mix. first_act, first_shortcut: of the first block. eps: of every BatchNorm.
    """

    stem: int
    first: int
    stages: tuple[OfaStage, ...]
    head: int
    mix: int | None
    act: str
    first_act: str
    first_shortcut: bool
    eps: float
    stem_stride: int = 2

    def scaled(self, width_mult: float) -> OfaLayout:
        """Returns the layout with all widths multiplied and rounded to multiples of 8."""

        def wide(width: int) -> int:
            return make_divisible(width * width_mult)

        return replace(
            self,
            stem=wide(self.stem),
            first=wide(self.first),
            stages=tuple(replace(stage, width=wide(stage.width)) for stage in self.stages),
            head=wide(self.head),
            mix=None if self.mix is None else wide(self.mix),
        )


class OfaMobile(ImageFamily):
    """Stem 3x3, one fixed block, stages of elastic inverted residuals, 1x1 head, mean, [1x1 mix], classifier.

    | genes, in this order | choices | active |
    |---|---|---|
    | resolution (only if several are given) | as given | always |
    | stage{s}.depth, all stages (none where a stage has one depth) | `OfaStage.depth` | always |
    | stage{s}.block{b}.kernel, all stages and blocks | `kernels` | while b <= depth |
    | stage{s}.block{b}.expand, all stages and blocks | `expands` | while b <= depth |

    The published encodings put kernels and expansions first; here depths come first because genes are conditioned
    on earlier ones. A block's mid channels are make_divisible(round(inputs * expand)). Blocks have an identity
    shortcut where stride is 1 and widths are equal. Smaller kernels come from larger ones by the kernel
    transform, whose matrices belong to the super-network only.

    Args:
        layout: what is fixed. width_mult: multiplies all widths. n_classes: outputs.
        resolutions: sides of square RGB input; the largest of several is the default.
        kernels, expands: choices of every block.
        elastic_last: False fixes a last stage of one block to its largest kernel and expansion (45 genes).
    """

    def __init__(
        self,
        layout: OfaLayout,
        *,
        width_mult: float,
        n_classes: int,
        resolutions: Sequence[int],
        kernels: Sequence[int],
        expands: Sequence[float],
        elastic_last: bool = True,
    ) -> None:
        if n_classes < 1:
            raise ValueError(f"n_classes must be at least 1, but got {n_classes}.")
        if width_mult <= 0:
            raise ValueError(f"width_mult must be positive, but got {width_mult}.")
        if any(k % 2 == 0 for k in kernels):
            raise ValueError(f"kernels must be odd, but got {list(kernels)}.")
        self.layout = layout.scaled(width_mult)
        self.n_classes = n_classes
        self.kernels, self.expands = tuple(kernels), tuple(expands)
        genes = resolution_genes(resolutions)
        self.input_shape = (3, max(resolutions), max(resolutions))
        for s, stage in enumerate(self.layout.stages, start=1):
            if len(stage.depth) > 1:
                genes.append(Gene(f"stage{s}.depth", stage.depth))
        for part, choices in (("kernel", self.kernels), ("expand", self.expands)):
            for s, b, stage in self._blocks():
                fixed = not elastic_last and s == len(self.layout.stages) and stage.depth == (1,)
                name = f"stage{s}.block{b}.{part}"
                if fixed:
                    choices = (max(choices),)
                genes.append(Gene(name, tuple(choices), active_when=self._when(s, b)))
        self.space = SearchSpace(genes)
        transform = kernel_transform(self.kernels)
        self.transforms = {f"stage{s}.block{b}.depthwise.conv.weight": transform for s, b, _ in self._blocks()}

    def _blocks(self) -> list[tuple[int, int, OfaStage]]:
        stages = enumerate(self.layout.stages, start=1)
        return [(s, b, stage) for s, stage in stages for b in range(1, max(stage.depth) + 1)]

    def _when(self, s: int, b: int) -> tuple[Condition, ...]:
        depths = self.layout.stages[s - 1].depth
        return () if b <= min(depths) else (Condition(f"stage{s}.depth", tuple(d for d in depths if d >= b)),)

    def _depth(self, s: int, arch: Architecture) -> int:
        stage = self.layout.stages[s - 1]
        return arch.integer(f"stage{s}.depth") if len(stage.depth) > 1 else stage.depth[0]

    # -- modules -------------------------------------------------------------------------------------

    def build(self, arch: Architecture) -> nn.Module:
        """Returns a `nn.Sequential` of stem, first, stages, head, pool, [mix], flatten and classifier."""
        net = self.layout
        first = InvertedResidual(
            net.stem, net.first, net.stem, 3, act=net.first_act, expand=False, shortcut=net.first_shortcut, eps=net.eps
        )
        module = nn.Sequential(
            OrderedDict(stem=ConvNormAct(3, net.stem, 3, stride=net.stem_stride, act=net.act, eps=net.eps), first=first)
        )
        channels = net.first
        for s, stage in enumerate(net.stages, start=1):
            blocks = nn.Sequential()
            for b in range(1, self._depth(s, arch) + 1):
                stride = stage.stride if b == 1 else 1
                block = InvertedResidual(
                    channels,
                    stage.width,
                    make_divisible(round(channels * float(arch[f"stage{s}.block{b}.expand"]))),
                    arch.integer(f"stage{s}.block{b}.kernel"),
                    stride=stride,
                    act=stage.act,
                    se=stage.se,
                    shortcut=stride == 1 and channels == stage.width,
                    eps=net.eps,
                )
                blocks.add_module(f"block{b}", block)
                channels = stage.width
            module.add_module(f"stage{s}", blocks)
        module.add_module("head", ConvNormAct(channels, net.head, act=net.act, eps=net.eps))
        module.add_module("pool", GlobalMean(keepdim=True))
        features = net.head
        if net.mix is not None:
            mix = nn.Sequential(
                OrderedDict(conv=nn.Conv2d(net.head, net.mix, 1, bias=False), act=ACTIVATIONS[net.act]())
            )
            module.add_module("mix", mix)
            features = net.mix
        module.add_module("flatten", nn.Flatten())
        module.add_module("classifier", nn.Linear(features, self.n_classes))
        return module

    def build_full(self) -> nn.Module:
        """Returns the largest network with the matrices of the kernel transform, identities at first."""
        module = self.build(self.space.largest())
        for s, b, _ in self._blocks():
            conv = module.get_submodule(f"stage{s}.block{b}.depthwise.conv")
            assert isinstance(conv, nn.Conv2d)
            add_matrices(conv, self.kernels)
        return module

    # -- layers --------------------------------------------------------------------------------------

    def layers(self, columns: Columns) -> list[LayerSpec]:
        """Returns the layers of all blocks that may exist. Stem, first block and classifier stay dense."""
        net = self.layout
        size: Size = side_column(columns, self.input_shape[1])
        layers = conv_norm_layers(
            "stem", "stem", inputs=3, outputs=net.stem, size=size, kernel=3, stride=net.stem_stride, prunable=False
        )
        size = out_size(size, net.stem_stride)
        layers += inverted_residual_layers(
            "first",
            "stem",
            inputs=net.stem,
            outputs=net.first,
            mid=net.stem,
            kernel=3,
            size=size,
            expand=False,
            shortcut=net.first_shortcut,
            prunable=False,
        )
        channels = net.first
        for s, b, stage in self._blocks():
            stride = stage.stride if b == 1 else 1
            expand = columns[f"stage{s}.block{b}.expand"].astype(np.float64)
            layers += inverted_residual_layers(
                f"stage{s}.block{b}",
                f"stage{s}",
                inputs=channels,
                outputs=stage.width,
                mid=make_divisible_array(np.rint(channels * expand)),
                kernel=columns[f"stage{s}.block{b}.kernel"].astype(np.int64),
                size=size,
                stride=stride,
                se=stage.se,
                shortcut=stride == 1 and channels == stage.width,
                active=columns[f"stage{s}.depth"] >= b if b > min(stage.depth) else True,
                when=self._when(s, b),
            )
            size = out_size(size, stride)
            channels = stage.width
        layers += conv_norm_layers("head", "head", inputs=channels, outputs=net.head, size=size)
        features = net.head
        if net.mix is not None:
            layers.append(LayerSpec("mix.conv", "conv", "head", net.head, net.mix))
            features = net.mix
        layers.append(
            LayerSpec("classifier", "linear", "classifier", features, self.n_classes, bias=True, prunable=False)
        )
        return layers

    def channel_groups(self) -> list[ChannelGroup]:
        """Returns the mid channels of every block, each scored by its projection, and those of its gate."""
        return [group for s, b, stage in self._blocks() for group in mid_channels(f"stage{s}.block{b}", se=stage.se)]

    # -- published weights ---------------------------------------------------------------------------

    def published_name(self, name: str) -> str | None:
        """Returns the key of a full tensor in Once-for-All's checkpoints."""
        part, _, rest = name.partition(".")
        outer = {
            "stem": "first_conv",
            "head": "feature_mix_layer" if self.layout.mix is None else "final_expand_layer",
            "mix": "feature_mix_layer",
            "classifier": "classifier.linear",
        }
        if part in outer:
            return f"{outer[part]}.{rest}"
        if part == "first":
            block, level = 0, ""
        else:
            inner, _, rest = rest.partition(".")
            before = sum(max(stage.depth) for stage in self.layout.stages[: int(part.removeprefix("stage")) - 1])
            block, level = before + int(inner.removeprefix("block")), "double"
        layer, _, rest = rest.partition(".")
        if layer == "se":
            return f"blocks.{block}.conv.depth_conv.se.fc.{rest}"
        layer = {"expand": "inverted_bottleneck", "depthwise": "depth_conv", "project": "point_linear"}[layer]
        kind, _, rest = rest.partition(".")
        if rest.startswith("matrix_"):
            rest, kind = rest.removeprefix("matrix_") + "_matrix", "conv"
        elif level:
            kind = f"{kind}.{kind}"
        return f"blocks.{block}.conv.{layer}.{kind}.{rest}"
