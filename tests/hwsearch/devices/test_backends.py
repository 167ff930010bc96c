"""Every device under the contract of devices."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

from hwsearch.devices.analytic_device import AnalyticDevice
from hwsearch.devices.base import Device, DeviceSpec
from hwsearch.devices.onnxruntime_device import OnnxRuntimeDevice, input_shape
from hwsearch.devices.reference import REFERENCES, FixedModule, FixedNet
from hwsearch.devices.simulated_device import SimulatedDevice
from hwsearch.devices.torch_device import TorchDevice, keeps_two_of_four, make_semi_structured
from hwsearch.errors import DeviceError, MissingExtraError, UserError
from hwsearch.export.base import Exporter
from hwsearch.export.onnx_exporter import OnnxExporter
from hwsearch.export.torch_exporter import TorchExporter
from hwsearch.export.verify import compare
from hwsearch.results import Artifact
from tests.contracts.device_contract import DeviceContract
from tests.contracts.nets import mlp_supernet, subnet


class TestOnnxRuntime(DeviceContract):
    runtime = "onnxruntime"

    def make_device(self, spec: DeviceSpec) -> Device:
        return OnnxRuntimeDevice(spec)

    @pytest.fixture
    def exporter(self) -> Exporter:
        return OnnxExporter()

    def test_peak_memory(self, exporter: Exporter) -> None:
        spec = self.spec(options={"peak_memory": True})
        assert OnnxRuntimeDevice.measures(spec) == ("latency_ms", "peak_memory_bytes")
        assert OnnxRuntimeDevice.measures(self.spec()) == ("latency_ms",)
        # 16 MB of weights must at least be held, and these nets take well below ten times as much.
        big = exporter.export(torch.nn.Sequential(torch.nn.Linear(2048, 2048)), (torch.ones(1, 2048),), costs={})
        small = self.artifact(exporter, largest=False)
        found = [r["peak_memory_bytes"] for r in self.make_device(spec).measure([big, small])]
        assert 16e6 < found[0].value < 160e6
        assert 0 < found[1].value < 16e6
        assert found[0].unit == "bytes"

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"provider": "npu"}, "option provider must be one of cpu, cuda, tensorrt, but got 'npu'"),
            ({"peak_memory": "yes"}, "option peak_memory must be true or false, but got 'yes'"),
        ],
    )
    def test_bad_options(self, options: dict[str, object], message: str) -> None:
        with pytest.raises(UserError, match=message):
            OnnxRuntimeDevice(self.spec(options=options))

    def test_missing_provider(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
        with pytest.raises(DeviceError, match="no CUDAExecutionProvider: pip install onnxruntime-gpu"):
            OnnxRuntimeDevice(self.spec(options={"provider": "cuda"}))
        monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
        with pytest.raises(UserError, match="clock 'cpu' and peak_memory need provider: cpu"):
            OnnxRuntimeDevice(self.spec(clock="cpu", options={"provider": "cuda"}))

    def test_cores_are_held_and_given_back(self, exporter: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
        before = os.sched_getaffinity(0)
        seen = []
        one = min(before)
        device = self.make_device(self.spec(cores=(one,)))
        original = OnnxRuntimeDevice.open
        monkeypatch.setattr(
            OnnxRuntimeDevice, "open", lambda *args: (seen.append(os.sched_getaffinity(0)), original(*args))[1]
        )
        measured = device.measure([self.artifact(exporter, largest=True)])
        assert seen == [{one}]
        assert os.sched_getaffinity(0) == before
        assert measured[0]["latency_ms"].environment["cores"] == str(one)
        with pytest.raises(DeviceError, match="device here: cores 4000 must be among those this process may use"):
            self.make_device(self.spec(cores=(4000,))).measure([self.artifact(exporter, largest=True)])
        assert os.sched_getaffinity(0) == before

    def test_open_sizes(self) -> None:
        assert input_shape("x", ["batch", 3, "height"], (3, 32), batch=4) == (4, 3, 32)
        with pytest.raises(UserError, match="size 2 of input 'x' must be known, but the file leaves it open"):
            input_shape("x", ["batch", 3, "height"], None, batch=4)
        with pytest.raises(UserError, match="batch of input 'x' is fixed to 1 in the file, but got batch 4"):
            input_shape("x", [1, 3], None, batch=4)


class TestTorch(DeviceContract):
    runtime = "torch"
    make_supernet = staticmethod(mlp_supernet)  # torch.export takes seconds for a CNN

    def make_device(self, spec: DeviceSpec) -> Device:
        return TorchDevice(spec)

    @pytest.fixture
    def exporter(self) -> Exporter:
        return TorchExporter()

    def test_unknown_place(self) -> None:
        with pytest.raises(UserError, match="option device must be 'cpu' or 'cuda', but got 'tpu'"):
            TorchDevice(self.spec(options={"device": "tpu"}))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"compile": 1}, "option compile must be true or false, but got 1"),
            ({"cuda_graph": True}, "options cuda_graph and semi_structured need device: cuda"),
            ({"semi_structured": True}, "options cuda_graph and semi_structured need device: cuda"),
        ],
    )
    def test_bad_options(self, options: dict[str, object], message: str) -> None:
        with pytest.raises(UserError, match=message):
            TorchDevice(self.spec(options=options))

    def test_cpu_clock_on_gpu(self) -> None:
        with pytest.raises(UserError, match="clock must be 'wall' on a GPU, but got 'cpu'"):
            TorchDevice(self.spec(clock="cpu", options={"device": "cuda"}))

    def test_older_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
        with pytest.raises(DeviceError, match="2:4 needs an NVIDIA GPU of Ampere or later"):
            TorchDevice(self.spec(options={"device": "cuda", "semi_structured": True}))

    def test_bf16(self, exporter: Exporter) -> None:
        module, example, costs = subnet(mlp_supernet(), largest=True)
        artifact = exporter.export(module, example, precision="bf16", costs=costs)
        assert next(module.parameters()).dtype == torch.float32
        measured = self.make_device(self.spec(precisions=("bf16",))).measure([artifact])
        assert measured[0]["latency_ms"].environment["precision"] == "bf16"
        agreement = compare(module, artifact, exporter, batches=[(torch.randn(64, 8, 8),)])
        assert 0 < agreement.max_abs_error < 0.02  # 8 bits of mantissa: about 0.4 % of outputs below 2

    def test_what_is_two_of_four(self) -> None:
        weight = torch.tensor([[1.0, 0, 0, 2, 0, 0, 3, 0]])
        assert keeps_two_of_four(weight)
        assert not keeps_two_of_four(weight + 1)
        assert not keeps_two_of_four(torch.zeros(1, 6))
        module = torch.nn.Linear(64, 64)  # float32 has no sparse kernels
        assert make_semi_structured(module) == []

    @pytest.mark.slow
    def test_compiled(self, exporter: Exporter) -> None:
        device = self.make_device(self.spec(options={"compile": True}))
        measured = device.measure([self.artifact(exporter, largest=False)])
        assert measured[0]["latency_ms"].environment["compile"] is True

    def test_missing_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(DeviceError, match="must have a GPU that torch can use"):
            TorchDevice(self.spec(options={"device": "cuda"}))


class TestOpenVino(DeviceContract):
    runtime = "openvino"

    def make_device(self, spec: DeviceSpec) -> Device:
        from hwsearch.devices.openvino_device import OpenVinoDevice

        return OpenVinoDevice(spec)

    @pytest.fixture
    def exporter(self) -> Exporter:
        pytest.importorskip("openvino")
        from hwsearch.export.openvino_exporter import OpenVinoExporter

        return OpenVinoExporter()

    @pytest.fixture(autouse=True)
    def runtime_is_here(self) -> None:
        pytest.importorskip("openvino")

    def test_reads_onnx_too(self, exporter: Exporter) -> None:
        measured = self.make_device(self.spec()).measure([self.artifact(OnnxExporter(), largest=True)])
        assert measured[0]["latency_ms"].value > 0

    def test_bf16_needs_the_cpu(self) -> None:
        import openvino

        spec = self.spec(precisions=("fp32", "bf16"))
        if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            assert self.make_device(spec)
        else:
            with pytest.raises(DeviceError, match="device here admits bf16, but this CPU has no bf16 instructions"):
                self.make_device(spec)

    def test_unknown_precision_of_the_spec(self) -> None:
        with pytest.raises(UserError, match="precisions must be of fp32, bf16, int8, but got 'fp64'"):
            self.make_device(self.spec(precisions=("fp64",)))


def test_missing_openvino_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from hwsearch.devices.openvino_device import OpenVinoDevice
    from hwsearch.export.openvino_exporter import OpenVinoExporter

    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"device x needs openvino, .*pip install 'hwsearch\[openvino\]'"):
        OpenVinoDevice(DeviceSpec(name="x", runtime="openvino"))
    with pytest.raises(MissingExtraError, match=r"pip install 'hwsearch\[openvino\]'"):
        OpenVinoExporter().export(torch.nn.Linear(2, 2), (torch.ones(1, 2),), costs={})


class TestLiteRt(DeviceContract):
    runtime = "litert"

    def make_device(self, spec: DeviceSpec) -> Device:
        from hwsearch.devices.litert_device import LiteRtDevice

        return LiteRtDevice(spec)

    @pytest.fixture(autouse=True)
    def runtime_is_here(self) -> None:
        pytest.importorskip("ai_edge_litert")

    @pytest.fixture
    def exporter(self) -> Exporter:
        from hwsearch.export.litert_exporter import LiteRtExporter

        return LiteRtExporter()


def test_missing_litert_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from hwsearch.devices.litert_device import LiteRtDevice
    from hwsearch.export.litert_exporter import LiteRtExporter

    for name in ("ai_edge_litert", "ai_edge_litert.interpreter"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"device x needs ai-edge-litert, .*pip install 'hwsearch\[litert\]'"):
        LiteRtDevice(DeviceSpec(name="x", runtime="litert"))
    with pytest.raises(MissingExtraError, match=r"pip install 'hwsearch\[litert\]'"):
        LiteRtExporter().export(torch.nn.Sequential(torch.nn.Linear(2, 2)), (torch.ones(1, 2),), costs={})


class TestAnalytic(DeviceContract):
    runtime = "analytic"
    opens_files = False

    def make_device(self, spec: DeviceSpec) -> Device:
        return AnalyticDevice(spec)

    @pytest.fixture
    def exporter(self) -> Exporter:
        return OnnxExporter()

    def test_missing_cost(self) -> None:
        with pytest.raises(DeviceError, match="must carry the cost 'macs'"):
            AnalyticDevice(self.spec()).measure([Artifact("onnx", "fp32", {}, "model.onnx")])


class TestSimulated(DeviceContract):
    runtime = "simulated"
    opens_files = False

    def make_device(self, spec: DeviceSpec) -> Device:
        return SimulatedDevice(spec)

    @pytest.fixture
    def exporter(self) -> Exporter:
        return OnnxExporter()

    def test_formula(self) -> None:
        spec = self.spec(
            batch=2,
            options={"gmacs_per_s": 10, "gb_per_s": 1, "overhead_ms": 0.5, "launch_ms": 0.1, "launches": 3, "noise": 0},
        )
        costs = {"macs": 5e6, "parameters": 1000, "nonzeros": 100, "stored_bytes": 500, "activation_bytes": 10_000}
        artifact = Artifact("onnx", "fp32", {}, "x", costs)
        value = SimulatedDevice(spec).measure([artifact])[0]["latency_ms"].value
        assert value == pytest.approx(0.5 + 0.3 + 1.0)  # 2 * 5 M MACs at 10 G/s
        bound = Artifact("onnx", "fp32", {}, "x", {**costs, "activation_bytes": 1e6})
        assert SimulatedDevice(spec).latency_ms(bound) == pytest.approx(0.8 + (4000 + 2e6) / 1e6)

    def test_zeros_pay_only_with_sparse_kernels(self) -> None:
        costs = {"macs": 5e6, "parameters": 1000.0, "nonzeros": 1000.0, "stored_bytes": 4000.0}
        dense = Artifact("onnx", "fp32", {}, "x", costs)
        sparse = Artifact("onnx", "fp32", {}, "x", {**costs, "nonzeros": 100.0, "stored_bytes": 525.0})
        plain = SimulatedDevice(self.spec(options={"noise": 0}))
        assert plain.latency_ms(dense) == plain.latency_ms(sparse)
        kernels = SimulatedDevice(self.spec(options={"noise": 0, "sparse": True}))
        assert kernels.latency_ms(sparse) < 0.5 * kernels.latency_ms(dense)

    def test_noise_is_seeded_by_artifact_and_repeat(self, exporter: Exporter) -> None:
        artifact = self.artifact(exporter, largest=True)
        values = [SimulatedDevice(self.spec()).measure([artifact] * 3) for _ in range(2)]
        numbers = [[r["latency_ms"].value for r in run] for run in values]
        assert numbers[0] == numbers[1]
        assert len(set(numbers[0])) == 3
        assert max(numbers[0]) / min(numbers[0]) < math.exp(0.02 * 8)

    def test_bad_option(self) -> None:
        with pytest.raises(UserError, match="option gb_per_s must be a positive number, but got 0"):
            SimulatedDevice(self.spec(options={"gb_per_s": 0}))
        with pytest.raises(UserError, match="option noise must be a number of at least 0, but got 'much'"):
            SimulatedDevice(self.spec(options={"noise": "much"}))


def test_simulated_from_a_table(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("architecture,latency_ms,note\nabc,1.5,x\ndef,2.5,y\n")

    def artifact(content: bytes) -> Artifact:
        return Artifact("costs", "fp32", {"costs.json": content}, "costs.json")

    def device(path: Path, noise: float = 0.0) -> SimulatedDevice:
        return SimulatedDevice(DeviceSpec(name="t", runtime="simulated", options={"table": str(path), "noise": noise}))

    known = [artifact(b'{"architecture": "def"}'), artifact(b'{"architecture": "abc"}')]
    assert [r["latency_ms"].value for r in device(table).measure(known)] == [2.5, 1.5]
    assert device(table, 0.1).measure(known)[0]["latency_ms"].value != 2.5
    with pytest.raises(DeviceError, match="the table must hold architecture xyz, but it does not"):
        device(table).measure([artifact(b'{"architecture": "xyz"}')])
    with pytest.raises(DeviceError, match=r"artifact \w{12} must say its architecture"):
        device(table).measure([artifact(b"no json")])
    with pytest.raises(UserError, match=r"nowhere\.csv must be a CSV file, but"):
        device(tmp_path / "nowhere.csv")
    table.write_text("a,b\n")
    with pytest.raises(UserError, match=r"must have columns architecture and latency_ms, but got \['a', 'b'\]"):
        device(table)
    table.write_text("architecture,latency_ms\nabc,1\ndef,fast\n")
    with pytest.raises(UserError, match=r"table\.csv, line 3: latency_ms must be positive, but got 'fast'"):
        device(table)


@pytest.mark.parametrize("net", list(REFERENCES.values()), ids=lambda net: net.name)
def test_fixed_nets_are_the_same_everywhere(net: FixedNet) -> None:
    assert net.onnx() == net.onnx()
    session = ort.InferenceSession(net.onnx(), providers=["CPUExecutionProvider"])
    got = session.run(None, {"x": net.input()})[0]
    with torch.no_grad():
        want = FixedModule(net).eval()(torch.from_numpy(net.input())).numpy()
    assert np.abs(want).max() > 0.01
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4 * np.abs(want).max())


def test_spec_refuses_cpu_clock_with_threads() -> None:
    with pytest.raises(ValueError, match="clock 'cpu' must be used with threads: 1, but got threads: 2"):
        DeviceSpec(name="x", clock="cpu", threads=2)
