"""The fixed net that every measuring run carries, as an ONNX file and as a torch module: times are divided by its time.

It does about the work of the nets that are searched, with weights that do not fit into a core's own caches: a tiny net
would not feel what a neighbour on the same chip takes away.

A change here changes what stored ratios mean: count up REFERENCE_VERSION, which every fingerprint carries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hwsearch.graphs.litert_graph import build_litert
from hwsearch.graphs.onnx_graph import build_onnx

FloatArray = NDArray[np.float32]
REFERENCE_VERSION = 2


@dataclass(frozen=True)
class FixedNet:
    """A CNN: 3x3 stem of stride 2, inverted residuals without shortcuts, 1x1 head, global mean, linear classifier.

    Args:
        name: of the graph.
        side: of the input, (1, 3, side, side).
        blocks: outputs, kernel, stride; mid channels are 4 * inputs.
        head: channels of the last convolution.
        classes: outputs.
    """

    name: str
    side: int
    blocks: tuple[tuple[int, int, int], ...]
    head: int
    classes: int

    def layers(self) -> list[tuple[int, int, int, int, int, bool]]:
        """Returns all convolutions in order: inputs, outputs, kernel, stride, groups, followed by ReLU."""
        out = [(3, 16, 3, 2, 1, True)]
        channels = 16
        for outputs, kernel, stride in self.blocks:
            mid = 4 * channels
            out.append((channels, mid, 1, 1, 1, True))
            out.append((mid, mid, kernel, stride, mid, True))
            out.append((mid, outputs, 1, 1, 1, False))
            channels = outputs
        return [*out, (channels, self.head, 1, 1, 1, True)]

    def weights(self) -> list[tuple[FloatArray, FloatArray]]:
        """Returns weight and bias per convolution, then of the classifier; He scale, so that values stay normal."""
        rng = np.random.default_rng(REFERENCE_VERSION)
        shapes = [(outputs, inputs // groups, k, k) for inputs, outputs, k, _, groups, _ in self.layers()]
        drawn = []
        for shape in [*shapes, (self.classes, self.head)]:
            scale = np.float32(np.sqrt(2.0 / np.prod(shape[1:])))
            drawn.append((scale * rng.standard_normal(shape, dtype=np.float32), np.zeros(shape[0], np.float32)))
        return drawn

    def input(self) -> FloatArray:
        """Returns the fixed input, (1, 3, side, side)."""
        return np.random.default_rng(0).standard_normal((1, 3, self.side, self.side), dtype=np.float32)

    def onnx(self) -> bytes:
        """Returns an ONNX file (opset 17; input `x`); the same bytes every time."""
        return build_onnx(FixedModule(self).eval(), (torch.from_numpy(self.input()),), ["x"], opset=17)

    def litert(self) -> bytes:
        """Returns a LiteRT file; the same bytes every time."""
        return build_litert(FixedModule(self).eval(), (torch.from_numpy(self.input()),))


REFERENCE = FixedNet(
    name="reference",
    side=128,
    blocks=(
        *((24, 3, 2), (24, 3, 1), (40, 5, 2), (40, 5, 1), (80, 3, 2)),
        *((80, 3, 1), (112, 5, 1), (160, 5, 2), (160, 5, 1), (160, 5, 1)),
    ),
    head=960,
    classes=1000,
)
"""47 M MACs, 1.9 M weights: about a small MobileNet."""
SMALL_REFERENCE = FixedNet(
    name="small_reference", side=64, blocks=((24, 3, 2), (40, 5, 2), (80, 3, 2), (80, 5, 1)), head=320, classes=100
)
"""3 M MACs, 0.1 M weights: for nets that take a fraction of a millisecond."""
REFERENCES = {"large": REFERENCE, "small": SMALL_REFERENCE}
"""What a spec may choose."""


class FixedModule(nn.Module):
    """A fixed net as a torch module, with the same weights."""

    def __init__(self, net: FixedNet) -> None:
        super().__init__()
        weights = net.weights()
        parts: list[nn.Module] = []
        with torch.random.fork_rng(devices=[]):  # the layers' own initial values are drawn and thrown away
            for i, (inputs, outputs, kernel, stride, groups, relu) in enumerate(net.layers()):
                conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups)
                conv.weight = nn.Parameter(torch.from_numpy(weights[i][0]))
                conv.bias = nn.Parameter(torch.from_numpy(weights[i][1]))
                parts.append(conv)
                if relu:
                    parts.append(nn.ReLU())
            self.features = nn.Sequential(*parts)
            self.classifier = nn.Linear(net.head, net.classes)
        self.classifier.weight = nn.Parameter(torch.from_numpy(weights[-1][0]))
        self.classifier.bias = nn.Parameter(torch.from_numpy(weights[-1][1]))

    def forward(self, x: Tensor) -> Tensor:
        """Returns (1, classes) scores of (1, 3, side, side)."""
        out: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return out
