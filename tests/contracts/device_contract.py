"""What every device must do."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace

import pytest
import torch

from hwsearch.devices.base import Device, DeviceSpec
from hwsearch.devices.reference import REFERENCES, FixedModule
from hwsearch.errors import DeviceError, UserError
from hwsearch.export.base import Exporter
from hwsearch.results import Artifact
from tests.contracts.exporter_contract import assert_same_module
from tests.contracts.nets import conv_supernet, subnet

QUICK = {"repeats": 6, "max_seconds": 0.3, "warmup": 1, "reference": "small"}

ARTIFACTS: dict[tuple[str, bool | None], Artifact] = {}
"""Exported once per format: torch.export takes seconds."""


class DeviceContract:
    """Inherit; supply `exporter` and `make_device`."""

    runtime: str
    make_supernet = staticmethod(conv_supernet)
    opens_files = True
    """False for devices that read costs alone."""

    def make_device(self, spec: DeviceSpec) -> Device:
        raise NotImplementedError

    @pytest.fixture
    def exporter(self) -> Exporter:
        raise NotImplementedError

    def spec(self, **changes: object) -> DeviceSpec:
        return DeviceSpec.model_validate({"name": "here", "runtime": self.runtime, **QUICK, **changes})

    def test_measures_two_artifacts(self, exporter: Exporter) -> None:
        device = self.make_device(self.spec())
        artifacts = [self.artifact(exporter, largest=largest) for largest in (True, False)]
        results = device.measure(artifacts)
        assert len(results) == 2
        for result in results:
            assert set(result) == set(device.metrics)
            for measurement in result.values():
                assert math.isfinite(measurement.value) and measurement.value > 0
                assert math.isfinite(measurement.std) and measurement.std >= 0
                assert measurement.unit
                assert measurement.repeats >= 1
                assert measurement.raw is None or measurement.raw > 0
                assert measurement.environment["runtime"] == self.runtime
                json.dumps(dict(measurement.environment), allow_nan=False)

    def test_module_is_left_as_it_was(self, exporter: Exporter) -> None:
        module, example, costs = subnet(self.make_supernet(), largest=False)
        module.train()
        before = copy.deepcopy(module)
        threads = torch.get_num_threads()
        self.make_device(self.spec()).measure([exporter.export(module, example, costs=costs)])
        assert_same_module(module, before)
        assert torch.get_num_threads() == threads

    def test_artifact_is_left_as_it_was(self, exporter: Exporter) -> None:
        artifact = self.artifact(exporter, largest=False)
        before = replace(artifact).sha256
        self.make_device(self.spec()).measure([artifact])
        assert replace(artifact).sha256 == before  # computed anew

    def test_nothing_to_measure(self) -> None:
        assert self.make_device(self.spec()).measure([]) == []

    def test_batch_is_measured(self, exporter: Exporter) -> None:
        device = self.make_device(self.spec(batch=4))
        assert device.measure([self.artifact(exporter, largest=True)])[0]

    def test_reference_is_kept_and_normalises(self, exporter: Exporter) -> None:
        if not self.opens_files:
            pytest.skip("nothing is timed")
        artifact = self.artifact(exporter, largest=True)
        device = self.make_device(self.spec())
        assert device.reference_ms is None
        free = device.measure([artifact])[0]["latency_ms"]
        assert device.reference_ms == free.environment["card_reference_ms"]
        frozen = self.make_device(self.spec(reference_ms=1000.0))
        scaled = frozen.measure([artifact])[0]["latency_ms"]
        assert frozen.reference_ms == 1000.0
        assert scaled.raw is not None
        # value / card = raw / reference of the run, up to the difference of a median of ratios and a ratio of medians
        own = scaled.raw / float(scaled.environment["reference_ms"])  # type: ignore[arg-type]
        assert 0.2 < scaled.value / 1000.0 / own < 5  # the host may be busy

    def test_reference_is_the_net_it_says_it_is(self, exporter: Exporter) -> None:
        if not self.opens_files:
            pytest.skip("nothing is timed")
        key = (exporter.format, None)
        if key not in ARTIFACTS:
            net = REFERENCES["small"]
            module, example = FixedModule(net).eval(), (torch.from_numpy(net.input()),)
            ARTIFACTS[key] = exporter.export(module, example, costs={})
        measured = self.make_device(self.spec()).measure([ARTIFACTS[key]])[0]["latency_ms"]
        # The same net as an artifact takes as long as the reference; a factor of 3 for a busy host.
        assert 1 / 3 < measured.value / float(measured.environment["card_reference_ms"]) < 3  # type: ignore[arg-type]

    def test_fast_protocol_repeats_exactly(self, exporter: Exporter) -> None:
        if not self.opens_files:
            pytest.skip("nothing is timed")
        device = self.make_device(self.spec(protocol="fast", repeats=8, max_seconds=60, target_ci=1e-9))
        measured = device.measure([self.artifact(exporter, largest=True)])[0]["latency_ms"]
        assert measured.repeats == 8
        assert measured.environment["target_reached"] is False
        half_width = measured.environment["half_width_ms"]
        assert isinstance(half_width, float)
        assert half_width > 0

    def test_format_that_is_not_taken(self, exporter: Exporter) -> None:
        if not self.opens_files:
            pytest.skip("takes every format")
        artifact = self.artifact(exporter, largest=False)
        wrong = Artifact("paper", "fp32", artifact.files, artifact.entry)
        with pytest.raises(UserError, match=r"device here must be given .* artifacts, but got 'paper'"):
            self.make_device(self.spec()).measure([wrong])

    def test_precision_that_is_not_admitted(self, exporter: Exporter) -> None:
        artifact = self.artifact(exporter, largest=False)
        wrong = Artifact(artifact.format, "int3", artifact.files, artifact.entry)
        with pytest.raises(UserError, match=r"device here admits precision fp32, but got 'int3'"):
            self.make_device(self.spec()).measure([wrong])

    def test_broken_artifact(self, exporter: Exporter) -> None:
        if not self.opens_files:
            pytest.skip("nothing is opened")
        artifact = self.artifact(exporter, largest=False)
        files = {name: content[: len(content) // 2] for name, content in artifact.files.items()}
        broken = Artifact(artifact.format, "fp32", files, artifact.entry, {}, artifact.input_shapes)
        with pytest.raises(DeviceError, match=f"cannot open artifact {broken.sha256[:12]}") as caught:
            self.make_device(self.spec()).measure([broken])
        assert "\n" not in str(caught.value)

    def test_unknown_option(self) -> None:
        with pytest.raises(UserError, match=rf"device here: runtime {self.runtime} has no option 'colour'"):
            self.make_device(self.spec(options={"colour": "red"}))

    def test_fingerprint_is_json(self) -> None:
        fingerprint = self.make_device(self.spec()).fingerprint()
        json.dumps(dict(fingerprint), allow_nan=False)
        assert fingerprint["runtime"] == self.runtime

    def artifact(self, exporter: Exporter, *, largest: bool) -> Artifact:
        key = (exporter.format, largest)
        if key not in ARTIFACTS:
            module, example, costs = subnet(self.make_supernet(), largest=largest)
            ARTIFACTS[key] = exporter.export(module, example, costs=costs)
        return ARTIFACTS[key]
