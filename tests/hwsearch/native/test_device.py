from __future__ import annotations

import pytest

from hwsearch.devices.base import Device, DeviceSpec
from hwsearch.errors import UserError
from hwsearch.export.base import Exporter
from hwsearch.native.device import NativeDevice
from hwsearch.native.exporter import NativeExporter
from tests.contracts.device_contract import DeviceContract


class TestNative(DeviceContract):
    runtime = "native"

    def make_device(self, spec: DeviceSpec) -> Device:
        return NativeDevice(spec)

    @pytest.fixture
    def exporter(self) -> Exporter:
        return NativeExporter()

    def test_one_thread(self) -> None:
        with pytest.raises(UserError, match="device here: threads must be 1 for native code, but got 2"):
            self.make_device(self.spec(threads=2))

    def test_one_precision(self) -> None:
        with pytest.raises(UserError, match="device here: precisions must be fp32, but got fp32, int8"):
            self.make_device(self.spec(precisions=("fp32", "int8")))
