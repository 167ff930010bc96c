"""Every exporter under the contract of exporters, and the check of artifacts."""

from __future__ import annotations

import io

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from hwsearch.errors import DeviceError, UserError
from hwsearch.export.base import Exporter
from hwsearch.export.onnx_exporter import OPSET, OnnxExporter
from hwsearch.export.torch_exporter import TorchExporter
from hwsearch.export.verify import verify
from tests.contracts.exporter_contract import ExporterContract
from tests.contracts.nets import conv_supernet, mlp_supernet, subnet


class TestOnnx(ExporterContract):
    @pytest.fixture
    def exporter(self) -> Exporter:
        return OnnxExporter()

    def test_file_is_valid_and_named(self, exporter: Exporter, capfd: pytest.CaptureFixture[str]) -> None:
        module, example, costs = subnet(conv_supernet(), largest=True)
        artifact = exporter.export(module, example, costs=costs)
        model = onnx.load(io.BytesIO(artifact.content))
        onnx.checker.check_model(model, full_check=True)
        assert model.opset_import[0].version == OPSET
        assert [node.name for node in model.graph.input] == ["input"]
        assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
        assert not [node for node in model.graph.node if node.op_type == "BatchNormalization"]
        assert capfd.readouterr() == ("", "")

    def test_wrong_number_of_inputs(self, exporter: Exporter) -> None:
        module, example, costs = subnet(mlp_supernet(), largest=False)
        artifact = exporter.export(module, example, costs=costs)
        with pytest.raises(UserError, match="inputs must be 1 arrays, but got 2"):
            exporter.run(artifact, (np.zeros((1, 8, 8), np.float32),) * 2)


class TestOpenVino(ExporterContract):
    deterministic = False

    @pytest.fixture
    def exporter(self) -> Exporter:
        pytest.importorskip("openvino")
        from hwsearch.export.openvino_exporter import OpenVinoExporter

        return OpenVinoExporter()


class TestLiteRt(ExporterContract):
    @pytest.fixture
    def exporter(self) -> Exporter:
        pytest.importorskip("ai_edge_litert")
        from hwsearch.export.litert_exporter import LiteRtExporter

        return LiteRtExporter()


class TestTorch(ExporterContract):
    deterministic = False
    refuses_strange = False
    slow = True

    @pytest.fixture
    def exporter(self) -> Exporter:
        return TorchExporter()

    def test_control_flow_on_values_is_named(self, exporter: Exporter) -> None:
        class Branch(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x if x.sum() > 0 else -x

        with pytest.raises(UserError, match=r"module Branch cannot be exported by torch\.export"):
            exporter.export(Branch(), (torch.randn(1, 4),), costs={})


def test_verify_refuses_another_module() -> None:
    module, example, costs = subnet(mlp_supernet(), largest=True)
    exporter = OnnxExporter()
    artifact = exporter.export(module, example, costs=costs)
    with torch.no_grad():
        module.get_parameter("classifier.weight").mul_(-1)
    batches = [(torch.randn(8, 8, 8),)]
    with pytest.raises(
        DeviceError, match=r"exported onnx model must agree with its module within 0\.0001, but differs"
    ):
        verify(module, artifact, exporter, batches=batches)
    report = verify(module, artifact, exporter, batches=batches, tolerance=None)
    assert report.top1_agreement < 0.7
    assert report.max_abs_error > 0


def test_verify_refuses_nan() -> None:
    class Bad(OnnxExporter):
        def run(self, artifact, inputs):  # type: ignore[no-untyped-def]
            return np.full((len(inputs[0]), 10), np.nan, np.float32)

    module, example, costs = subnet(mlp_supernet(), largest=True)
    artifact = OnnxExporter().export(module, example, costs=costs)
    with pytest.raises(DeviceError, match="differs by inf"):
        verify(module, artifact, Bad(), batches=[example])


def test_verify_refuses_another_shape() -> None:
    class Bad(OnnxExporter):
        def run(self, artifact, inputs):  # type: ignore[no-untyped-def]
            return np.zeros((1, 3), np.float32)

    module, example, costs = subnet(mlp_supernet(), largest=True)
    artifact = OnnxExporter().export(module, example, costs=costs)
    with pytest.raises(DeviceError, match=r"must give outputs \(1, 10\), but gave \(1, 3\)"):
        verify(module, artifact, Bad(), batches=[example])


def test_verify_needs_inputs() -> None:
    module, example, costs = subnet(mlp_supernet(), largest=True)
    artifact = OnnxExporter().export(module, example, costs=costs)
    with pytest.raises(ValueError, match="batches must hold at least one batch"):
        verify(module, artifact, OnnxExporter(), batches=[])
