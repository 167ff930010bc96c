"""The environment fingerprint."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwsearch.devices import environment
from hwsearch.devices.base import DeviceSpec
from hwsearch.devices.environment import clock_of, cpu_model, differences, fingerprint, governor, machine


def test_fingerprint_names_machine_and_runtime() -> None:
    found = fingerprint(DeviceSpec(name="x", threads=2), runtime_version="1.2", extra={"provider": "CPU"})
    assert found["threads"] == 2
    assert found["runtime_version"] == "1.2"
    assert found["provider"] == "CPU"
    assert found["cpu_model"]
    assert set(machine()) <= set(found)


def test_cpu_model_is_read_from_the_kernel(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nmodel name\t: Fast CPU 9000\n")
    assert cpu_model(path) == "Fast CPU 9000"
    assert cpu_model(tmp_path / "nothing")


def test_governor(tmp_path: Path) -> None:
    assert governor(tmp_path) is None
    for core, name in (("cpu0", "performance"), ("cpu1", "powersave")):
        (tmp_path / core / "cpufreq").mkdir(parents=True)
        (tmp_path / core / "cpufreq" / "scaling_governor").write_text(name + "\n")
    assert governor(tmp_path) == "performance+powersave"


def test_differences_name_what_forbids_comparing() -> None:
    one = fingerprint(DeviceSpec(name="x"), runtime_version="1.0")
    assert differences(one, {**one, "python": "4.0"}) == []
    assert differences(one, {**one, "threads": 4}) == ["threads: 1 against 4"]


def test_running_time_needs_one_thread_of_a_cpu_and_a_kernel_that_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "tells_queued", lambda: True)
    spec = DeviceSpec(name="x")
    assert clock_of(spec) == "running"
    assert clock_of(spec, on_cpu=False) == "wall"
    assert clock_of(DeviceSpec(name="x", threads=2)) == "wall"
    assert clock_of(DeviceSpec(name="x", clock="cpu")) == "cpu"
    monkeypatch.setattr(environment, "tells_queued", lambda: False)
    assert clock_of(spec) == "wall"
    assert fingerprint(spec, runtime_version="1")["clock"] == "wall"
