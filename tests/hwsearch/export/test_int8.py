"""Quantised artifacts: close to their module on real inputs, smaller, and calibrated or refused."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from hwsearch.errors import UserError
from hwsearch.export import onnx_int8
from hwsearch.export.base import Exporter
from hwsearch.export.onnx_exporter import OnnxExporter
from hwsearch.export.verify import compare


@cache
def trained() -> tuple[nn.Module, Tensor]:
    """Returns a small CNN trained on digits for a few steps, and images."""
    digits = load_digits()
    x = torch.from_numpy(digits.images.astype(np.float32) / 16).unsqueeze(1)
    y = torch.from_numpy(digits.target)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
        )
        optimiser = torch.optim.Adam(module.parameters(), lr=0.02)
        for step in range(60):
            rows = torch.arange(step * 24, step * 24 + 24) % 1400
            loss = nn.functional.cross_entropy(module(x[rows]), y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return module.eval(), x


def exporter_of(name: str) -> Exporter:
    if name == "onnx":
        return OnnxExporter()
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    from hwsearch.export.openvino_exporter import OpenVinoExporter

    return OpenVinoExporter()


@pytest.mark.parametrize(("name", "precision"), [("onnx", "int8"), ("onnx", "int8-dynamic"), ("openvino", "int8")])
def test_agrees_on_real_inputs(name: str, precision: str, capfd: pytest.CaptureFixture[str]) -> None:
    exporter = exporter_of(name)
    module, x = trained()
    calibration = [(x[i : i + 16],) for i in range(0, 64, 16)]
    artifact = exporter.export(module, (x[:1],), precision=precision, costs={}, calibration=calibration)
    assert artifact.precision == precision
    agreement = compare(module, artifact, exporter, batches=[(x[1400:],)])
    # 397 images the calibration did not see; 8 bits cost a few per cent of top-1 agreement at most in a net this small.
    assert agreement.top1_agreement > 0.93
    assert agreement.max_abs_error > 0
    assert capfd.readouterr().out == ""


def test_static_onnx_is_quantised_and_the_same_every_time() -> None:
    module, x = trained()
    artifacts = [
        OnnxExporter().export(module, (x[:1],), precision="int8", costs={}, calibration=[(x[:32],)]) for _ in range(2)
    ]
    assert artifacts[0].sha256 == artifacts[1].sha256
    graph = onnx.load_from_string(artifacts[0].content).graph
    assert sum(node.op_type == "QuantizeLinear" for node in graph.node) >= 3
    assert {t.data_type for t in graph.initializer} >= {onnx.TensorProto.INT8}


@pytest.mark.parametrize("name", ["onnx", "openvino"])
@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((torch.full((4, 1, 8, 8), torch.nan),), "calibration must hold finite values, but batch 1 does not"),
        (
            (torch.ones(4, 1, 9, 8),),
            r"inputs of shapes \[\(1, 8, 8\)\] after the batch, but batch 1 holds \[\(4, 1, 9, 8\)\]",
        ),
        ((torch.ones(0, 1, 8, 8),), r"but batch 1 holds \[\(0, 1, 8, 8\)\]"),
        ((torch.ones(4, 1, 8, 8),) * 2, r"but batch 1 holds \[\(4, 1, 8, 8\), \(4, 1, 8, 8\)\]"),
    ],
)
def test_calibration_that_cannot_be_used(name: str, batch: tuple[Tensor, ...], message: str) -> None:
    module, x = trained()
    with pytest.raises(UserError, match=message) as caught:
        exporter_of(name).export(module, (x[:1],), precision="int8", costs={}, calibration=[(x[:4],), batch])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_int8_needs_calibration(name: str) -> None:
    module, x = trained()
    with pytest.raises(UserError, match="calibration must hold at least one batch for int8, but got none"):
        exporter_of(name).export(module, (x[:1],), precision="int8", costs={})


def test_what_cannot_be_quantised() -> None:
    with pytest.raises(UserError, match="onnxruntime cannot quantise the model: ") as caught:
        onnx_int8.static(b"nothing", ["input"], [(torch.ones(1, 3, 8, 8),)])
    assert "\n" not in str(caught.value)


def test_dynamic_needs_a_linear_layer() -> None:
    content = OnnxExporter().export(nn.Sequential(nn.Conv2d(1, 2, 3)), (torch.ones(1, 1, 8, 8),), costs={}).content
    with pytest.raises(UserError, match="must have a linear layer for dynamic int8, but it has none"):
        onnx_int8.dynamic(content)
