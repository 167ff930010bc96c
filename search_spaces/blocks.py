"""Blocks shared by the convolutional families: plain modules, and the layers they consist of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from search_spaces.genes import Condition
from search_spaces.layers import LayerSpec, Size
from search_spaces.supernet import ChannelGroup

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "relu6": lambda: nn.ReLU6(inplace=True),
    "hswish": lambda: nn.Hardswish(inplace=True),
    "hsigmoid": lambda: nn.Hardsigmoid(inplace=True),
    "gelu": nn.GELU,
}


def make_divisible(value: float, divisor: int = 8) -> int:
    """Returns `value` rounded to a multiple of `divisor`, never below 90 % of it (MobileNetV2's rule)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def make_divisible_array(value: NDArray[Any], divisor: int = 8) -> NDArray[np.int64]:
    """Returns `make_divisible` of every entry."""
    rounded = np.maximum(divisor, (value + divisor / 2).astype(np.int64) // divisor * divisor)
    return np.where(rounded < 0.9 * value, rounded + divisor, rounded)


def out_size(size: Size, stride: int) -> Size:
    """Returns the side of a feature map after a layer with padding k // 2 (odd k) and the given stride."""
    return (size + stride - 1) // stride


class ConvNormAct(nn.Sequential):
    """Convolution without bias, BatchNorm, activation (or none). Padding kernel // 2."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        act: str | None = "relu",
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=eps)
        if act is not None:
            self.act = ACTIVATIONS[act]()


def conv_norm_layers(
    name: str,
    stage: str,
    *,
    inputs: Size,
    outputs: Size,
    size: Size,
    kernel: Size = 1,
    stride: int = 1,
    groups: Size = 1,
    held: Size = 0,
    prunable: bool = True,
    active: bool | NDArray[np.bool_] = True,
    when: tuple[Condition, ...] = (),
) -> list[LayerSpec]:
    """Returns the layers of a `ConvNormAct` at `name` whose input has side `size`."""
    side = out_size(size, stride)
    conv = LayerSpec(
        f"{name}.conv",
        "conv",
        stage,
        inputs,
        outputs,
        kernel=kernel,
        groups=groups,
        positions_in=size * size,
        positions=side * side,
        held=held,
        prunable=prunable,
        active=active,
        when=when,
    )
    norm = LayerSpec(
        f"{name}.bn",
        "batchnorm",
        stage,
        outputs,
        outputs,
        positions_in=side * side,
        positions=side * side,
        held=held,
        active=active,
        when=when,
    )
    return [conv, norm]


class SqueezeExcite(nn.Module):
    """Scales channels by a gate computed from their means: 1x1 conv, ReLU, 1x1 conv, hard sigmoid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = make_divisible(channels // 4)
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.relu = nn.ReLU(inplace=True)
        self.expand = nn.Conv2d(hidden, channels, 1)
        self.gate = nn.Hardsigmoid(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the scaled input, (batch, channels, height, width)."""
        mean = x.mean((2, 3), keepdim=True)
        gate: Tensor = self.gate(self.expand(self.relu(self.reduce(mean))))
        return x * gate


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise k x k, optional squeeze-excitation, project 1x1; identity shortcut if asked for.

    Without `mid` wider than the input there may be no expansion (`expand=False`), as in MobileNet's first block.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        mid: int,
        kernel: int,
        *,
        stride: int = 1,
        act: str = "relu",
        se: bool = False,
        expand: bool = True,
        shortcut: bool = False,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        if expand:
            self.expand = ConvNormAct(inputs, mid, act=act, eps=eps)
        self.depthwise = ConvNormAct(mid, mid, kernel, stride=stride, groups=mid, act=act, eps=eps)
        if se:
            self.se = SqueezeExcite(mid)
        self.project = ConvNormAct(mid, outputs, act=None, eps=eps)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Returns (batch, outputs, height / stride, width / stride)."""
        y = x
        for part in self.children():
            y = part(y)
        return x + y if self.shortcut else y


def inverted_residual_layers(
    name: str,
    stage: str,
    *,
    inputs: Size,
    outputs: Size,
    mid: Size,
    kernel: Size,
    size: Size,
    stride: int = 1,
    se: bool = False,
    expand: bool = True,
    shortcut: bool = False,
    prunable: bool = True,
    active: bool | NDArray[np.bool_] = True,
    when: tuple[Condition, ...] = (),
) -> list[LayerSpec]:
    """Returns the layers of an `InvertedResidual` at `name` whose input has side `size`."""
    side = out_size(size, stride)
    held = inputs * size * size if shortcut else 0
    layers: list[LayerSpec] = []

    def conv(part: str, **sizes: object) -> None:
        layers.extend(
            conv_norm_layers(f"{name}.{part}", stage, held=held, active=active, when=when, **sizes)  # type: ignore[arg-type]
        )

    if expand:
        conv("expand", inputs=inputs, outputs=mid, size=size, prunable=prunable)
    conv("depthwise", inputs=mid, outputs=mid, size=size, kernel=kernel, stride=stride, groups=mid, prunable=False)
    if se:
        hidden = make_divisible_array(np.asarray(mid) // 4) if isinstance(mid, np.ndarray) else make_divisible(mid // 4)
        kept = held + mid * side * side
        for part, wide_in, wide_out in (("reduce", mid, hidden), ("expand", hidden, mid)):
            layers.append(
                LayerSpec(
                    f"{name}.se.{part}",
                    "conv",
                    stage,
                    wide_in,
                    wide_out,
                    bias=True,
                    held=kept,
                    prunable=False,
                    active=active,
                    when=when,
                )
            )
    conv("project", inputs=mid, outputs=outputs, size=side, prunable=prunable)
    return layers


class GlobalMean(nn.Module):
    """Means over height and width: (batch, channels, height, width) -> (batch, channels), or (.., 1, 1) if kept."""

    def __init__(self, *, keepdim: bool = False) -> None:
        super().__init__()
        self.keepdim = keepdim

    def forward(self, x: Tensor) -> Tensor:
        """Returns (batch, channels) or (batch, channels, 1, 1)."""
        return torch.mean(x, (2, 3), keepdim=self.keepdim)


def conv_norm_members(name: str) -> list[tuple[str, int]]:
    """Returns the tensors of a `ConvNormAct` that are indexed by its output channels."""
    norm = [(f"{name}.bn.{part}", 0) for part in ("weight", "bias", "running_mean", "running_var")]
    return [(f"{name}.conv.weight", 0), *norm]


def mid_channels(name: str, *, se: bool) -> list[ChannelGroup]:
    """Returns the coupled mid channels of an `InvertedResidual`, scored by its projection, and those of its gate."""
    members = [(f"{name}.project.conv.weight", 1), *conv_norm_members(f"{name}.expand")]
    members += conv_norm_members(f"{name}.depthwise")
    if not se:
        return [ChannelGroup(tuple(members), score=members[0])]
    members += [(f"{name}.se.reduce.weight", 1), (f"{name}.se.expand.weight", 0), (f"{name}.se.expand.bias", 0)]
    gate = ((f"{name}.se.expand.weight", 1), (f"{name}.se.reduce.weight", 0), (f"{name}.se.reduce.bias", 0))
    return [ChannelGroup(tuple(members), score=members[0]), ChannelGroup(gate, score=gate[0])]
