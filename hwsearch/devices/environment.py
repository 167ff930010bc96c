"""Environment fingerprint: what a number depends on besides the network, and whether two fingerprints may be mixed."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import psutil

from hwsearch.devices.base import DeviceSpec, Fingerprint, Option
from hwsearch.devices.timing import ClockName, tells_queued

DECISIVE = (
    "cpu_model",
    "gpu_model",
    "runtime",
    "runtime_version",
    "threads",
    "batch",
    "governor",
    "clock",
    "reference_net",
)
"""Numbers whose fingerprints differ in one of these are not comparable."""


@cache
def machine() -> Fingerprint:
    """Returns CPU model, cores, governor (None where not readable), Python and platform of this machine."""
    return {
        "cpu_model": cpu_model(),
        "architecture": platform.machine(),
        "physical_cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(logical=True),
        "governor": governor(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()}",
    }


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Returns the CPU's name as the kernel gives it, else as Python does."""
    try:
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in {"model name", "Model", "Hardware"} and value.strip():
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def governor(root: Path = Path("/sys/devices/system/cpu")) -> str | None:
    """Returns the frequency governors of the cores, joined when they differ; None where the kernel shows none."""
    found = set()
    for path in root.glob("cpu[0-9]*/cpufreq/scaling_governor"):
        try:
            found.add(path.read_text(encoding="utf-8").strip())
        except OSError:
            continue
    return "+".join(sorted(found)) or None


def affinity() -> int | None:
    """Returns on how many cores this process may run; None where the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def clock_of(spec: DeviceSpec, *, on_cpu: bool = True) -> ClockName:
    """Returns the clock that a lane of this process reads: `running` only where one thread of a Linux CPU computes.

    With several threads it is not known for how long the slowest of them waited for a core.

    Args:
        spec: the device's.
        on_cpu: the engine computes on the CPU.
    """
    if spec.clock == "running" and not (on_cpu and spec.threads == 1 and tells_queued()):
        return "wall"
    return spec.clock


def fingerprint(
    spec: DeviceSpec, *, runtime_version: str | None, extra: Mapping[str, Option] | None = None
) -> Fingerprint:
    """Returns the fingerprint of a device on this machine: its machine, runtime, version, threads, batch, clock."""
    return {
        **machine(),
        "runtime": spec.runtime,
        "runtime_version": runtime_version,
        "threads": spec.threads,
        "batch": spec.batch,
        "clock": clock_of(spec),
        "usable_cores": affinity(),
        "cores": None if spec.cores is None else ",".join(map(str, spec.cores)),
        **(extra or {}),
    }


def differences(one: Fingerprint, other: Fingerprint) -> list[str]:
    """Returns the decisive differences of two fingerprints, one line each; empty: numbers may be compared."""
    return [f"{key}: {one.get(key)} against {other.get(key)}" for key in DECISIVE if one.get(key) != other.get(key)]
