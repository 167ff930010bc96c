"""`hwsearch measure`: one model on several devices; a device that cannot is one line, and the others go on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hwsearch.build import Plan, registry
from hwsearch.commands.exporting import artifact_of
from hwsearch.commands.forms import Form
from hwsearch.commands.query import device_spec, run_plan
from hwsearch.devices.base import Device, DeviceSpec
from hwsearch.distribution.workers import WEIGHTS
from hwsearch.errors import DeviceError, UserError
from hwsearch.export.onnx_int8 import precision_of
from hwsearch.front import Member, load_front
from hwsearch.results import Artifact
from hwsearch.runfolder import RunFolder
from search_spaces.precision import GENE as PRECISION


class Model:
    """What is to be measured: an ONNX file, or a net of a run in whatever form a device opens.

    Args:
        target: `MODEL.onnx`, or `RUN:KEY` for a net of a run's front.

    Raises:
        UserError: nothing to measure.
    """

    def __init__(self, target: str) -> None:
        self.plan: Plan | None = None
        self.folder: RunFolder | None = None
        self.member: Member | None = None
        if target.endswith(".onnx"):
            self.artifacts = [read_onnx(Path(target))]
            self.precision = self.artifacts[0].precision
            return
        run, found, key = target.rpartition(":")
        if not found:
            raise UserError(f"a model must be MODEL.onnx or RUN:KEY, but got {target!r}.")
        self.plan, self.folder = run_plan(Path(run))
        members = {m.key: m for m in load_front(self.folder)}
        if key not in members:
            raise UserError(f"the net must be on the front ({list(members)}), but got {key!r}.")
        self.member = members[key]
        self.precision = str(self.member.architecture.get(PRECISION, "fp32"))
        stored = [self.folder.load_artifact(d) for name, d in self.member.artifacts.items() if name != WEIGHTS]
        self.artifacts = [a for a in stored if a is not None]
        if not self.artifacts and WEIGHTS not in self.member.artifacts:
            raise UserError(f"net {key} must be there in a format that a device takes, but {run} holds none.")

    def spec(self, name: str, *, batch: int | None) -> DeviceSpec:
        """Returns the description of a device; one that is only the name of a runtime takes the model's precision."""
        spec = device_spec(name, self.plan)
        if self.plan is not None and self.folder is not None and name in self.plan.devices:
            if spec.reference_ms is None:
                spec = spec.model_copy(update={"reference_ms": self.folder.references().get(name)})  # as in the run
        elif name in registry.DEVICES:
            spec = spec.model_copy(update={"precisions": (self.precision,)})
        return spec if batch is None else spec.model_copy(update={"batch": batch})

    def artifact(self, device: Device) -> Artifact:
        """Returns the model as a device takes it, exported for it if need be.

        Raises:
            UserError: it does not exist in such a form.
        """
        formats, precisions = device.opens(device.spec), device.spec.precisions
        fitting = [a for a in self.artifacts if (not formats or a.format in formats) and a.precision in precisions]
        if fitting:
            return fitting[0]
        if self.plan is None or self.folder is None or self.member is None or not formats:
            return self.artifacts[0]  # the device says what it does not take
        precision = self.precision if self.precision in precisions else precisions[0]
        return artifact_of(self.member, self.plan, self.folder, form=Form(formats[0], precision))


def measure(target: str, devices: Sequence[str], *, batch: int | None = None) -> list[dict[str, Any]]:
    """Measures one model on devices and returns one row per device and metric; `error` says why a device could not.

    Args:
        target: `MODEL.onnx`, or `RUN:KEY` for a net of a run's front.
        devices: each a YAML file with a device, the name of a device of the run, or the name of a runtime.
        batch: overrides the devices' batch.

    Raises:
        UserError, DeviceError: there is nothing to measure, or no device can.
    """
    model = Model(target)
    rows: list[dict[str, Any]] = []
    errors: list[tuple[str, Exception]] = []
    for name in devices:
        try:
            rows += _measured(model, name, batch)
        except (UserError, DeviceError) as error:
            errors.append((name, error))
    if len(errors) == len(devices):
        if len(errors) == 1:
            raise errors[0][1]
        raise DeviceError(f"no device could measure {target}: " + "; ".join(_line(e) for _, e in errors))
    empty = {"metric": None, "value": None, "unit": None, "half_width": None, "batch": None}
    return rows + [{"device": name, **empty, "error": _line(error)} for name, error in errors]


def _measured(model: Model, name: str, batch: int | None) -> list[dict[str, Any]]:
    spec = model.spec(name, batch=batch)
    device = registry.named("devices", spec.runtime, f"device {name}: runtime")(spec)
    artifact = model.artifact(device)
    rows = []
    for metric, measurement in device.measure([artifact])[0].items():
        std = measurement.std
        rows.append(
            {
                "device": spec.name,
                "metric": metric,
                "batch": spec.batch,
                "format": artifact.format,
                "precision": artifact.precision,
                **asdict(measurement),
                "half_width": None if math.isnan(std) else 1.96 * std,
                "error": None,
            }
        )
    return rows


def read_onnx(path: Path) -> Artifact:
    """Returns an ONNX file as an artifact; its precision is int8 where it has quantised tensors.

    Raises:
        UserError: no such file, or not ONNX.
    """
    if not path.is_file():
        raise UserError(f"a model must be an ONNX file or RUN:KEY, but {path} does not exist.")
    content = path.read_bytes()
    precision = precision_of(content)
    if precision is None:
        raise UserError(f"a model must be an ONNX file or RUN:KEY, but {path} is not ONNX.")
    return Artifact("onnx", precision, {"model.onnx": content}, "model.onnx")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
