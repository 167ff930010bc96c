"""The environment fingerprint."""

from __future__ import annotations

from pathlib import Path

from hwsearch.devices.base import DeviceSpec
from hwsearch.devices.environment import cpu_model, differences, fingerprint, governor, machine


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
