"""Nets that the native benchmarks time: MobileNetV3-Large, one encoder, with random masks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from search_spaces.blocks import ConvNormAct, GlobalMean, InvertedResidual
from search_spaces.transformer_blocks import PostNormLayer

# kernel, mid channels, outputs, squeeze-excitation, activation, stride: table 1 of Howard et al. 2019
LARGE = (
    (3, 16, 16, False, "relu", 1),
    (3, 64, 24, False, "relu", 2),
    (3, 72, 24, False, "relu", 1),
    (5, 72, 40, True, "relu", 2),
    (5, 120, 40, True, "relu", 1),
    (5, 120, 40, True, "relu", 1),
    (3, 240, 80, False, "hswish", 2),
    (3, 200, 80, False, "hswish", 1),
    (3, 184, 80, False, "hswish", 1),
    (3, 184, 80, False, "hswish", 1),
    (3, 480, 112, True, "hswish", 1),
    (3, 672, 112, True, "hswish", 1),
    (5, 672, 160, True, "hswish", 2),
    (5, 960, 160, True, "hswish", 1),
    (5, 960, 160, True, "hswish", 1),
)


def mobilenet_v3() -> nn.Module:
    """MobileNetV3-Large at width 1: 217 M MACs at 224 x 224."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(stem=ConvNormAct(3, 16, 3, stride=2, act="hswish"))
    channels = 16
    for i, (kernel, mid, outputs, se, act, stride) in enumerate(LARGE):
        shortcut = stride == 1 and channels == outputs
        layers[f"block{i}"] = InvertedResidual(
            channels,
            outputs,
            mid,
            kernel,
            stride=stride,
            act=act,
            se=se,
            expand=mid != channels,
            shortcut=shortcut,
        )
        channels = outputs
    layers["head"] = ConvNormAct(channels, 960, act="hswish")
    layers["pool"] = GlobalMean()
    layers["hidden"] = nn.Linear(960, 1280)
    layers["act"] = nn.Hardswish()
    layers["classifier"] = nn.Linear(1280, 1000)
    return settled(nn.Sequential(layers), (torch.randn(4, 3, 224, 224),))


def encoder(layers: int = 2, width: int = 768) -> nn.Module:
    """Post-norm encoder layers of BERT's shape."""
    parts = [PostNormLayer(width, width, heads=12, hidden=4 * width, act="gelu", eps=1e-12) for _ in range(layers)]
    return nn.Sequential(*parts).eval()


def settled(module: nn.Module, example: tuple[Tensor, ...]) -> nn.Module:
    """Gives BatchNorm the statistics of random inputs, so that values stay of order 1."""
    module.train()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None
    with torch.no_grad():
        module(*example)
    return module.eval()


def masked(make: Callable[[], nn.Module], sparsity: float, *, rows: int = 1) -> nn.Module:
    """The net with this share of zeros in its 1x1 convolutions and linear layers, drawn at random.

    Args:
        make: makes it.
        sparsity: share of zeros.
        rows: outputs that share their zeros.
    """
    torch.manual_seed(0)
    module = make()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Linear) or (isinstance(part, nn.Conv2d) and part.kernel_size == (1, 1)):
                outputs, inputs = part.weight.shape[:2]
                keep = torch.rand((-(-outputs // rows), inputs), generator=generator) >= sparsity
                # Fewer terms, each larger: values stay of order 1.
                part.weight.mul_(keep.repeat_interleave(rows, 0)[:outputs].view_as(part.weight) / (1 - sparsity) ** 0.5)
    return module
