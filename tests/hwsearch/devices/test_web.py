"""WebAssembly engines in node. HWSEARCH_NODE_FOLDER names a folder whose node_modules has the npm packages."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from hwsearch.devices.base import Device, DeviceSpec
from hwsearch.devices.web_device import LiteRtJsDevice, OnnxRuntimeWebDevice
from hwsearch.errors import DeviceError, MissingExtraError, UserError
from hwsearch.export.base import Exporter
from hwsearch.export.onnx_exporter import OnnxExporter
from hwsearch.results import Artifact
from tests.contracts.device_contract import DeviceContract

FOLDER = Path(os.environ.get("HWSEARCH_NODE_FOLDER", "."))


class WebContract(DeviceContract):
    kind: type[OnnxRuntimeWebDevice]

    @pytest.fixture(autouse=True)
    def engine_is_here(self) -> None:
        if shutil.which("node") is None or not (FOLDER / "node_modules" / self.kind.package).is_dir():
            pytest.skip(f"needs node and the npm package {self.kind.package} in HWSEARCH_NODE_FOLDER")

    def spec(self, **changes: object) -> DeviceSpec:
        options = {"modules": str(FOLDER), **changes.pop("options", {})}  # type: ignore[dict-item]
        return super().spec(**changes, options=options)

    def make_device(self, spec: DeviceSpec) -> Device:
        return self.kind(spec)

    def test_broken_artifact(self, exporter: Exporter) -> None:
        artifact = self.artifact(exporter, largest=False)
        broken = Artifact(artifact.format, "fp32", {artifact.entry: artifact.content[:99]}, artifact.entry)
        with pytest.raises(DeviceError, match="must end with status 0, but ended with 1: ") as caught:
            self.make_device(self.spec()).measure([broken])
        assert "\n" not in str(caught.value)


class TestOnnxRuntimeWeb(WebContract):
    runtime = "onnxruntime_web"
    kind = OnnxRuntimeWebDevice

    @pytest.fixture
    def exporter(self) -> Exporter:
        return OnnxExporter()


class TestLiteRtJs(WebContract):
    runtime = "litert_js"
    kind = LiteRtJsDevice

    @pytest.fixture
    def exporter(self) -> Exporter:
        pytest.importorskip("ai_edge_litert")
        from hwsearch.export.litert_exporter import LiteRtExporter

        return LiteRtExporter()

    def test_batch_is_measured(self, exporter: Exporter) -> None:
        with pytest.raises(DeviceError, match="litert runs one thread and batch 1 in node"):
            self.make_device(self.spec(batch=4)).measure([self.artifact(exporter, largest=False)])


def test_missing_node() -> None:
    spec = DeviceSpec(name="web", runtime="onnxruntime_web", options={"node": "no-such-node"})
    with pytest.raises(MissingExtraError, match=r"device web needs Node\.js, but there is no program 'no-such-node'"):
        OnnxRuntimeWebDevice(spec)


def test_missing_package(tmp_path: Path) -> None:
    program = shutil.which("true")
    assert program is not None
    spec = DeviceSpec(name="web", runtime="litert_js", options={"node": program, "modules": str(tmp_path)})
    with pytest.raises(MissingExtraError, match=rf"npm install --prefix {tmp_path} @litertjs/core"):
        LiteRtJsDevice(spec)


def test_unknown_option() -> None:
    spec = DeviceSpec(name="web", runtime="onnxruntime_web", options={"module": "x"})
    with pytest.raises(UserError, match="has no option 'module'; did you mean 'modules'"):
        OnnxRuntimeWebDevice(spec)
