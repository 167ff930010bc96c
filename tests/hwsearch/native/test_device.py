from __future__ import annotations

import pytest

from hwsearch.devices.base import Device, DeviceSpec
from hwsearch.devices.card import decide
from hwsearch.devices.profile import profile
from hwsearch.errors import UserError
from hwsearch.export.base import Exporter
from hwsearch.native.device import NativeDevice
from hwsearch.native.exporter import NativeExporter
from hwsearch.objectives import Objective
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


def test_profile_says_what_pays_per_layer_shape_and_the_search_goes_by_it() -> None:
    spec = DeviceSpec(name="here", runtime="native", repeats=6, warmup=1, max_seconds=0.05, reference="small")
    patterns = ("unstructured-0.1", "unstructured-0.9")
    card = profile(
        NativeDevice(spec),
        NativeExporter(),
        created="2026-11-22",
        patterns=patterns,
        subjects=(),
        shapes=((32, 8),),
    )
    subject = "32-192-32 at 8 x 8"
    assert {p.variant for p in card.probes} == {"dense fp32", *patterns, "block-4x1-0.3", "block-4x1-0.5"}
    assert {p.subject for p in card.probes} == {subject}
    share = card.break_even(subject, "unstructured")
    assert share is not None and 0.1 <= share < 0.9
    decisions = decide(
        patterns, group="sparsity", objectives=[Objective("latency_ms", device="here")], cards={"here": card}
    )
    assert decisions[1].kept
    assert decisions[1].reason.startswith("latency_ms@here gains ")
