"""The torch device on a GPU, under the contract; 2:4 against dense. Needs -m cuda and an NVIDIA GPU."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import nn

from hwsearch.devices.base import Device, DeviceSpec
from hwsearch.devices.torch_device import TorchDevice, make_semi_structured
from hwsearch.export.base import Exporter
from hwsearch.export.torch_exporter import TorchExporter
from search_spaces.sparsity import parse_pattern
from tests.contracts.device_contract import DeviceContract
from tests.contracts.nets import mlp_supernet

pytestmark = pytest.mark.cuda


class CudaContract(DeviceContract):
    runtime = "torch"
    make_supernet = staticmethod(mlp_supernet)
    own: Mapping[str, object] = {}

    @pytest.fixture(autouse=True)
    def gpu_is_here(self) -> None:
        if not torch.cuda.is_available():
            pytest.skip("needs an NVIDIA GPU")

    def spec(self, **changes: object) -> DeviceSpec:
        options = {"device": "cuda", **self.own, **changes.pop("options", {})}  # type: ignore[dict-item]
        return super().spec(**changes, options=options)

    def make_device(self, spec: DeviceSpec) -> Device:
        return TorchDevice(spec)

    @pytest.fixture
    def exporter(self) -> Exporter:
        return TorchExporter()

    def test_gpu_is_named(self) -> None:
        assert self.make_device(self.spec()).fingerprint()["gpu_model"]


class TestEager(CudaContract):
    pass


class TestGraph(CudaContract):
    own = {"cuda_graph": True}


def test_two_of_four_computes_the_same_and_is_timed() -> None:
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("needs an NVIDIA GPU of Ampere or later")
    rule = parse_pattern("2:4")
    module = nn.Sequential(nn.Linear(1024, 4096), nn.ReLU(), nn.Linear(4096, 1024))
    with torch.no_grad():
        for layer in (module[0], module[2]):
            mask = rule.mask(layer.weight)
            assert mask is not None
            layer.weight.mul_(mask)
    dense, sparse = (nn.Sequential(*module).to("cuda", torch.bfloat16) for _ in range(2))
    sparse.load_state_dict(dense.state_dict())
    assert make_semi_structured(sparse) == ["0.weight", "2.weight"]
    x = torch.randn(128, 1024, device="cuda", dtype=torch.bfloat16)
    with torch.inference_mode():
        torch.testing.assert_close(sparse(x), dense(x), rtol=0.05, atol=0.05)
    artifact = TorchExporter().export(module, (torch.randn(2, 1024),), precision="bf16", costs={})
    for flag in (False, True):
        options = {"device": "cuda", "semi_structured": flag}
        spec = DeviceSpec(name="gpu", runtime="torch", precisions=("bf16",), batch=4096, options=options)
        found = TorchDevice(spec).measure([artifact])[0]["latency_ms"]
        assert found.value > 0
        assert found.environment["semi_structured"] is flag
