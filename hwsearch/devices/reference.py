"""The reference net: a small fixed CNN that every measuring run carries, as an ONNX file and as a torch module.

A change here changes what stored ratios mean: count up REFERENCE_VERSION, which every fingerprint carries.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

REFERENCE_VERSION = 1
INPUT_SHAPE = (1, 3, 64, 64)
BLOCKS = ((24, 3, 2), (40, 5, 2), (80, 3, 2), (80, 5, 1))
"""Inverted residuals after a 16-channel stem of stride 2: outputs, kernel, stride; mid = 4 * inputs. 5.6 M MACs."""
CLASSES = 100


def layers() -> list[tuple[int, int, int, int, int, bool]]:
    """Returns all convolutions in order: inputs, outputs, kernel, stride, groups, followed by ReLU."""
    out = [(3, 16, 3, 2, 1, True)]
    channels = 16
    for outputs, kernel, stride in BLOCKS:
        mid = 4 * channels
        out += [(channels, mid, 1, 1, 1, True), (mid, mid, kernel, stride, mid, True), (mid, outputs, 1, 1, 1, False)]
        channels = outputs
    return [*out, (channels, 320, 1, 1, 1, True)]


def _weights() -> list[tuple[np.ndarray[Any, np.dtype[np.float32]], np.ndarray[Any, np.dtype[np.float32]]]]:
    """Returns fixed weight and bias per convolution, then of the classifier; He scale, so that values stay normal."""
    rng = np.random.default_rng(REFERENCE_VERSION)
    shapes = [(outputs, inputs // groups, k, k) for inputs, outputs, k, _, groups, _ in layers()]
    drawn = []
    for shape in [*shapes, (CLASSES, 320)]:
        scale = np.sqrt(2.0 / np.prod(shape[1:]))
        drawn.append(((scale * rng.standard_normal(shape)).astype(np.float32), np.zeros(shape[0], np.float32)))
    return drawn


def reference_input() -> np.ndarray[Any, np.dtype[np.float32]]:
    """Returns the fixed input, (1, 3, 64, 64)."""
    return np.random.default_rng(0).standard_normal(INPUT_SHAPE).astype(np.float32)


def reference_onnx() -> bytes:
    """Returns the reference net as an ONNX file (opset 17; input `x`, output `y`); the same bytes every time."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, tensors, name = [], [], "x"
    weights = _weights()
    for i, (_, _, kernel, stride, groups, relu) in enumerate(layers()):
        weight, bias = weights[i]
        tensors += [numpy_helper.from_array(weight, f"w{i}"), numpy_helper.from_array(bias, f"b{i}")]
        pad = kernel // 2
        attributes: dict[str, Any] = {
            "strides": [stride] * 2,
            "pads": [pad] * 4,
            "group": groups,
            "kernel_shape": [kernel] * 2,
        }
        nodes.append(helper.make_node("Conv", [name, f"w{i}", f"b{i}"], [f"c{i}"], **attributes))
        name = f"c{i}"
        if relu:
            nodes.append(helper.make_node("Relu", [name], [f"r{i}"]))
            name = f"r{i}"
    tensors += [numpy_helper.from_array(weights[-1][0], "wf"), numpy_helper.from_array(weights[-1][1], "bf")]
    nodes.append(helper.make_node("GlobalAveragePool", [name], ["pool"]))
    nodes.append(helper.make_node("Flatten", ["pool"], ["flat"]))
    nodes.append(helper.make_node("Gemm", ["flat", "wf", "bf"], ["y"], transB=1))
    graph = helper.make_graph(
        nodes,
        "reference",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(INPUT_SHAPE))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, CLASSES])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


class ReferenceNet(nn.Module):
    """The same net as a torch module, with the same weights."""

    def __init__(self) -> None:
        super().__init__()
        weights = _weights()
        parts: list[nn.Module] = []
        with torch.random.fork_rng(devices=[]):  # the layers' own initial values are drawn and thrown away
            for i, (inputs, outputs, kernel, stride, groups, relu) in enumerate(layers()):
                conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups)
                conv.weight = nn.Parameter(torch.from_numpy(weights[i][0]))
                conv.bias = nn.Parameter(torch.from_numpy(weights[i][1]))
                parts.append(conv)
                if relu:
                    parts.append(nn.ReLU())
            self.features = nn.Sequential(*parts)
            self.classifier = nn.Linear(320, CLASSES)
        self.classifier.weight = nn.Parameter(torch.from_numpy(weights[-1][0]))
        self.classifier.bias = nn.Parameter(torch.from_numpy(weights[-1][1]))

    def forward(self, x: Tensor) -> Tensor:
        """Returns (1, 100) scores of (1, 3, 64, 64)."""
        out: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return out
