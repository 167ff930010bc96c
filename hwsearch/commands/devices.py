"""`hwsearch devices` and `hwsearch profile`: what can be measured with here, and what pays there."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hwsearch.build import registry
from hwsearch.commands.query import device_spec
from hwsearch.devices.base import DeviceSpec
from hwsearch.devices.card import CapabilityCard
from hwsearch.devices.profile import profile as measure_profile
from hwsearch.devices.profile import profiling_spec
from hwsearch.errors import DeviceError, UserError
from hwsearch.runfolder import write_atomic


def devices() -> list[dict[str, Any]]:
    """Returns one row per known runtime: available here or not, its metrics, its version or what it lacks."""
    return [_runtime(name) for name in registry.DEVICES]


def _runtime(name: str) -> dict[str, Any]:
    metrics: list[str] = []
    try:
        kind = registry.named("devices", name, "runtime")
        metrics = list(kind.metrics)
        if kind.settings_hint:
            return {"runtime": name, "available": True, "metrics": metrics, "detail": kind.settings_hint}
        fingerprint = kind(DeviceSpec(name=name, runtime=name)).fingerprint()
    except (UserError, DeviceError, ImportError) as error:
        return {"runtime": name, "available": False, "metrics": metrics, "detail": " ".join(str(error).split())}
    detail = ", ".join(f"{k} {fingerprint[k]}" for k in ("runtime_version", "cpu_model") if k in fingerprint)
    return {"runtime": name, "available": True, "metrics": metrics, "detail": detail}


def profile(
    name: str, *, out: Path = Path("devices"), observe: Callable[[str, int, int], None] | None = None
) -> tuple[CapabilityCard, Path]:
    """Measures what pays on a device and writes `<out>/<name>.card.json` and a readable `<name>.card.md`.

    Args:
        name: YAML file of a device, or the name of a runtime.
        out: folder of the cards.
        observe: called with (subject, groups done, groups in all).

    Raises:
        UserError: no such device.
        DeviceError: not even the baselines can be measured.
    """
    spec = device_spec(name, None)
    kind = registry.named("devices", spec.runtime, f"device {name}: runtime")
    formats = kind.opens(spec)
    exporter = registry.named("exporters", formats[0], "exporter")() if formats else None
    device = kind(profiling_spec(spec))
    created = datetime.now(UTC).date().isoformat()
    card = measure_profile(device, exporter, created=created, observe=observe)
    path = out / f"{spec.name}.card.json"
    write_atomic(path, card.to_json().encode())
    write_atomic(path.with_suffix(".md"), card.table().encode())
    return card, path
