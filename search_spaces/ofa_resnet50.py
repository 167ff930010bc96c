"""The family `ofa_resnet50`: Once-for-All's ResNet50 with elastic depth, expansion and width."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from search_spaces.architecture import Architecture
from search_spaces.blocks import (
    ConvNormAct,
    GlobalMean,
    conv_norm_layers,
    conv_norm_members,
    make_divisible,
    make_divisible_array,
    out_size,
)
from search_spaces.genes import Condition, Gene, Value
from search_spaces.layers import LayerSpec, Size
from search_spaces.resolution import ImageFamily, resolution_genes, side_column
from search_spaces.space import SearchSpace
from search_spaces.supernet import ChannelGroup, Columns


@dataclass(frozen=True)
class ResNetLayout:
    """What is fixed: widths before the width multiplier, blocks of each stage at extra depth 0, strides."""

    stem: int
    widths: tuple[int, ...]
    base_depths: tuple[int, ...]
    strides: tuple[int, ...]
    stem_stride: int = 2
    pool: bool = True


LAYOUTS: Mapping[str, tuple[ResNetLayout, int]] = {
    "imagenet": (ResNetLayout(64, (256, 512, 1024, 2048), (2, 2, 4, 2), (1, 2, 2, 2)), 224),
    "small": (ResNetLayout(64, (256, 512, 1024, 2048), (2, 2, 4, 2), (1, 2, 2, 2), stem_stride=1, pool=False), 32),
    "tiny": (ResNetLayout(64, (256, 512), (1, 1), (1, 2), stem_stride=1, pool=False), 16),
}
"""Preset -> layout and side of the input: published for ImageNet, the same for 32 x 32 images, two short stages."""

EXTRA_DEPTHS = (0, 1, 2)
EXPANDS = (0.2, 0.25, 0.35)
WIDTHS = (0.65, 0.8, 1.0)


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1 without activation; added to the input or its projection; ReLU."""

    def __init__(self, inputs: int, outputs: int, mid: int, *, stride: int = 1, project: bool = False) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(inputs, mid)
        self.conv2 = ConvNormAct(mid, mid, 3, stride=stride)
        self.conv3 = ConvNormAct(mid, outputs, act=None)
        if project:
            pool = nn.AvgPool2d(stride, stride, ceil_mode=True) if stride > 1 else nn.Identity()
            self.shortcut: nn.Module = nn.Sequential(
                OrderedDict(pool=pool, project=ConvNormAct(inputs, outputs, act=None))
            )
        else:
            self.shortcut = nn.Identity()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (batch, outputs, height / stride, width / stride)."""
        out: Tensor = self.act(self.conv3(self.conv2(self.conv1(x))) + self.shortcut(x))
        return out


class StemResidual(nn.Module):
    """A 3x3 convolution with BatchNorm and ReLU, plus its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = ConvNormAct(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the shape of its input."""
        out: Tensor = self.body(x)
        return out + x


class OfaResNet50(ImageFamily):
    """Once-for-All ResNet50 (`ofa_resnet50`).

    | genes, in this order | choices | meaning |
    |---|---|---|
    | resolution (only if several are given) | as given | side of the image |
    | stem.depth | 0, (1 = 0), 2 | the stem's residual block exists only at 2 |
    | stage{s}.depth | 0, 1, 2 | blocks beyond the base depth (2 2 4 2) |
    | stage{s}.block{b}.expand, all 18 blocks | 0.2, 0.25, 0.35 | mid = make_divisible(round(out * expand)) |
    | stem.mid, stem.width | 0.65, 0.8, 1.0 | stem widths 24 (24) 32 and 40 48 64 |
    | stage{s}.width | 0.65, 0.8, 1.0 | of 256, 512, 1024, 2048 |

    Choices that make the same network are aliases: stem.depth 1 is 0, stem.mid 0.8 is 0.65. The first block of a
    stage projects its shortcut: average pool (size and stride = the block's stride, ceil mode), 1x1, BatchNorm.

    | preset imagenet | parameters | MACs at 224 |
    |---|---|---|
    | largest | 48,105,992 | 7.49 G |
    | smallest | 6,539,280 | 0.962 G |

    Args:
        n_classes: outputs.
        resolutions: sides of the input; several make a gene. By default the preset's.
        preset: `imagenet` (published), `small` (the same network on 32 x 32), `tiny` (two short stages, 16 x 16).

    Source: Cai et al. 2020 and its `OFAResNets`.
    """

    name = "ofa_resnet50"

    def __init__(
        self, *, n_classes: int = 1000, resolutions: Sequence[int] | None = None, preset: str = "imagenet"
    ) -> None:
        if preset not in LAYOUTS:
            raise ValueError(f"preset must be one of {list(LAYOUTS)}, but got {preset!r}.")
        if n_classes < 1:
            raise ValueError(f"n_classes must be at least 1, but got {n_classes}.")
        self.layout, side = LAYOUTS[preset]
        resolutions = (side,) if resolutions is None else resolutions
        self.n_classes = n_classes
        self.input_shape = (3, max(resolutions), max(resolutions))
        genes = resolution_genes(resolutions)
        genes.append(Gene("stem.depth", EXTRA_DEPTHS, aliases={1: 0}))
        genes += [Gene(f"stage{s}.depth", EXTRA_DEPTHS) for s, _ in self._stages()]
        genes += [Gene(f"stage{s}.block{b}.expand", EXPANDS, active_when=self._when(s, b)) for s, b in self._blocks()]
        genes.append(Gene("stem.mid", WIDTHS, aliases=_equal(self._stem_mid)))
        genes.append(Gene("stem.width", WIDTHS, aliases=_equal(self._stem_out)))
        for s, full in self._stages():
            genes.append(Gene(f"stage{s}.width", WIDTHS, aliases=_equal(partial(_wide, full))))
        self.space = SearchSpace(genes)

    def _stages(self) -> list[tuple[int, int]]:
        return list(enumerate(self.layout.widths, start=1))

    def _blocks(self) -> list[tuple[int, int]]:
        depths = enumerate(self.layout.base_depths, start=1)
        return [(s, b) for s, base in depths for b in range(1, base + max(EXTRA_DEPTHS) + 1)]

    def _when(self, s: int, b: int) -> tuple[Condition, ...]:
        extra = b - self.layout.base_depths[s - 1]
        return () if extra <= 0 else (Condition(f"stage{s}.depth", tuple(d for d in EXTRA_DEPTHS if d >= extra)),)

    def _stem_mid(self, ratio: float) -> int:
        return make_divisible(self.layout.stem // 2 * ratio)

    def _stem_out(self, ratio: float) -> int:
        return make_divisible(self.layout.stem * ratio)

    # -- modules -------------------------------------------------------------------------------------

    def build(self, arch: Architecture) -> nn.Module:
        """Returns a `nn.Sequential` of stem, stages, pool and classifier."""
        layout = self.layout
        mid, channels = self._stem_mid(_ratio(arch, "stem.mid")), self._stem_out(_ratio(arch, "stem.width"))
        stem = nn.Sequential(OrderedDict(conv1=ConvNormAct(3, mid, 3, stride=layout.stem_stride)))
        if arch["stem.depth"] == 2:
            stem.add_module("residual", StemResidual(mid))
        stem.add_module("conv2", ConvNormAct(mid, channels, 3))
        if layout.pool:
            stem.add_module("pool", nn.MaxPool2d(3, 2, 1))
        module = nn.Sequential(OrderedDict(stem=stem))
        for s, full in self._stages():
            width = _wide(full, _ratio(arch, f"stage{s}.width"))
            blocks = nn.Sequential()
            for b in range(1, layout.base_depths[s - 1] + arch.integer(f"stage{s}.depth") + 1):
                mid = make_divisible(round(width * _ratio(arch, f"stage{s}.block{b}.expand")))
                stride = layout.strides[s - 1] if b == 1 else 1
                blocks.add_module(f"block{b}", Bottleneck(channels, width, mid, stride=stride, project=b == 1))
                channels = width
            module.add_module(f"stage{s}", blocks)
        module.add_module("pool", GlobalMean())
        module.add_module("classifier", nn.Linear(channels, self.n_classes))
        return module

    # -- layers --------------------------------------------------------------------------------------

    def layers(self, columns: Columns) -> list[LayerSpec]:
        """Returns the layers of all blocks that may exist. Stem and classifier stay dense."""
        layout = self.layout
        size: Size = side_column(columns, self.input_shape[1])
        mid = _lookup(columns["stem.mid"], self._stem_mid)
        channels: Size = _lookup(columns["stem.width"], self._stem_out)
        layers = conv_norm_layers(
            "stem.conv1",
            "stem",
            inputs=3,
            outputs=mid,
            size=size,
            kernel=3,
            stride=layout.stem_stride,
            prunable=False,
        )
        size = out_size(size, layout.stem_stride)
        layers += conv_norm_layers(
            "stem.residual.body",
            "stem",
            inputs=mid,
            outputs=mid,
            size=size,
            kernel=3,
            held=mid * size * size,
            prunable=False,
            active=columns["stem.depth"] == 2,
            when=(Condition("stem.depth", (2,)),),
        )
        layers += conv_norm_layers(
            "stem.conv2", "stem", inputs=mid, outputs=channels, size=size, kernel=3, prunable=False
        )
        size = out_size(size, 2) if layout.pool else size
        for s, b in self._blocks():
            width = _lookup(columns[f"stage{s}.width"], partial(_wide, layout.widths[s - 1]))
            extra = b - layout.base_depths[s - 1]
            stride = layout.strides[s - 1] if b == 1 else 1
            layers += _bottleneck_layers(
                f"stage{s}.block{b}",
                f"stage{s}",
                inputs=channels,
                outputs=width,
                mid=make_divisible_array(np.rint(width * columns[f"stage{s}.block{b}.expand"])),
                size=size,
                stride=stride,
                project=b == 1,
                active=columns[f"stage{s}.depth"] >= extra if extra > 0 else True,
                when=self._when(s, b),
            )
            size = out_size(size, stride)
            channels = width
        layers.append(
            LayerSpec("classifier", "linear", "classifier", channels, self.n_classes, bias=True, prunable=False)
        )
        return layers

    def channel_groups(self) -> list[ChannelGroup]:
        """Returns the two coupled groups of mid channels of every block: conv3's inputs first, then conv2's."""
        groups: list[ChannelGroup] = []
        for s, b in self._blocks():
            name = f"stage{s}.block{b}"
            for writer, reader in (("conv2", "conv3"), ("conv1", "conv2")):
                score = (f"{name}.{reader}.conv.weight", 1)
                groups.append(ChannelGroup((score, *conv_norm_members(f"{name}.{writer}")), score=score))
        return groups

    # -- published weights ---------------------------------------------------------------------------

    def published_name(self, name: str) -> str | None:
        """Returns the key of a full tensor in Once-for-All's checkpoints."""
        part, _, rest = name.partition(".")
        if part == "classifier":
            return f"classifier.linear.linear.{rest}"
        inner, _, rest = rest.partition(".")
        if part == "stem":
            outer = {"conv1": "input_stem.0", "residual": "input_stem.1", "conv2": "input_stem.2"}[inner]
            rest = rest.replace("body.", "conv.")  # the residual's own level
        else:
            s, b = int(part.removeprefix("stage")), int(inner.removeprefix("block"))
            block = sum(base + max(EXTRA_DEPTHS) for base in self.layout.base_depths[: s - 1]) + b - 1
            outer = f"blocks.{block}"
            rest = rest.replace("shortcut.project", "downsample")
        owner, kind, tensor = rest.rpartition(".")[0], "", rest.rpartition(".")[2]
        owner, _, kind = owner.rpartition(".")
        return ".".join(filter(None, [outer, owner, kind, kind, tensor]))


def _wide(full: int, ratio: float) -> int:
    return make_divisible(full * ratio)


def _ratio(arch: Architecture, gene: str) -> float:
    return float(arch[gene])


def _lookup(ratios: NDArray[np.float64], channels: Callable[[float], int]) -> NDArray[np.int64]:
    """Returns the channels for every entry of a column of width ratios (n,)."""
    out = np.zeros(ratios.shape, dtype=np.int64)
    for ratio in WIDTHS:
        out[ratios == ratio] = channels(ratio)
    return out


def _equal(channels: Callable[[float], int]) -> dict[Value, Value]:
    """Returns the aliases among the width ratios: those that round to the channels of an earlier one."""
    first: dict[int, float] = {}
    return {w: first[channels(w)] for w in WIDTHS if first.setdefault(channels(w), w) != w}


def _bottleneck_layers(
    name: str,
    stage: str,
    *,
    inputs: Size,
    outputs: Size,
    mid: Size,
    size: Size,
    stride: int,
    project: bool,
    active: bool | NDArray[np.bool_],
    when: tuple[Condition, ...],
) -> list[LayerSpec]:
    """Returns the layers of a `Bottleneck` at `name` whose input has side `size`. The input is held until the sum."""
    side = out_size(size, stride)
    held = inputs * size * size
    layers = []
    for part, wide_in, wide_out, kernel, from_side, step in (
        ("conv1", inputs, mid, 1, size, 1),
        ("conv2", mid, mid, 3, size, stride),
        ("conv3", mid, outputs, 1, side, 1),
    ):
        layers += conv_norm_layers(
            f"{name}.{part}",
            stage,
            inputs=wide_in,
            outputs=wide_out,
            size=from_side,
            kernel=kernel,
            stride=step,
            held=held,
            active=active,
            when=when,
        )
    if project:
        layers += conv_norm_layers(
            f"{name}.shortcut.project",
            stage,
            inputs=inputs,
            outputs=outputs,
            size=side,
            held=outputs * side * side,
            active=active,
            when=when,
        )
    return layers
