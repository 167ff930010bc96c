"""Handing over a net: its files in the asked forms, each run by its engine and held against the module, and a card."""

from __future__ import annotations

import hashlib
import json
import math
import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hwsearch.build import Plan, registry
from hwsearch.commands.forms import RUNTIMES, WEIGHTS_FORM, Form, file_names
from hwsearch.devices.base import Device, DeviceSpec
from hwsearch.distribution.workers import WEIGHTS
from hwsearch.errors import DeviceError, RunFolderError, UserError
from hwsearch.evaluation import Score, calibration_batches, evaluate, evaluate_artifact
from hwsearch.export.base import Exporter
from hwsearch.export.source import model_source
from hwsearch.export.verify import FP32_TOLERANCE, Agreement, compare_outputs, verify
from hwsearch.export.weights import decode
from hwsearch.front import Member, plain_module, versions
from hwsearch.results import Artifact, Measurement
from hwsearch.runfolder import RunFolder, write_atomic, write_json
from search_spaces.architecture import Architecture
from search_spaces.precision import GENE as PRECISION
from search_spaces.supernet import Supernet

REAL_INPUTS = 64
"""Examples of the hold-out on which an export is compared with its module."""


@dataclass(frozen=True)
class Request:
    """How a net is handed over.

    Args:
        forms: to write besides its weights; empty: what was measured, and ONNX for fp32 nets.
        devices: to time the forms on, besides those of the run.
        measure: whether to time what the run's validation did not.
        command: that asks for it, for the card.
        license: of the weights, for the card; None: as the configuration says.
    """

    forms: tuple[Form, ...] = ()
    devices: tuple[DeviceSpec, ...] = ()
    measure: bool = False
    command: tuple[str, ...] = ()
    license: str | None = None


@dataclass(frozen=True)
class _Net:
    """A member of the front as a module, and what is needed to judge its exports."""

    member: Member
    arch: Architecture
    module: nn.Module
    example: tuple[Tensor, ...]
    batches: list[tuple[Tensor, ...]]
    weights: Artifact


def export_net(
    member: Member, plan: Plan, supernet: Supernet, folder: RunFolder, *, request: Request | None = None
) -> dict[str, Any]:
    """Writes `models/<key>/`: the net in each form, its weights with a readable model.py, and its card; returns it.

    Every form is run by its engine and compared with the module on real inputs before anything is written. Forms that
    were exported earlier, of the same weights, stay.

    Args:
        member: of the validated front.
        plan: of the run.
        supernet: builds the skeleton; its weights are not used.
        folder: of the run; holds the member's artifacts.
        request: what to write.

    Raises:
        RunFolderError: the member's weights are gone.
        UserError: a form that this net cannot have.
        DeviceError: an fp32 form does not agree with the module within 1e-4, or its engine does not run it.
    """
    request = request or Request()
    net = _net(member, plan, supernet, folder)
    stored = {name: folder.load_artifact(digest) for name, digest in member.artifacts.items() if name != WEIGHTS}
    measured = {name: a for name, a in stored.items() if a is not None and a.format in registry.EXPORTERS}
    target = folder.models / member.key
    files = dict(net.weights.files)
    exports: dict[str, dict[str, Any]] = {}
    main: tuple[Artifact, Agreement] | None = None
    for form in request.forms or default_forms(member, measured.values()):
        exporter = form.exporter()
        artifact = next((a for a in measured.values() if (a.format, a.precision) == _kind(form)), None)
        if artifact is None:
            artifact = _export(net, form, exporter, plan)
        tolerance = FP32_TOLERANCE if form.precision == "fp32" else None
        agreement = verify(net.module, artifact, exporter, batches=net.batches, tolerance=tolerance)
        names = file_names(artifact)
        files.update({names[name]: content for name, content in artifact.files.items()})
        exports[form.name] = {
            "format": artifact.format,
            "precision": artifact.precision,
            "entry": names[artifact.entry],
            "files": sorted(names.values()),
            "artifact_sha256": artifact.sha256,
            "agreement": asdict(agreement),
            "accuracy": _accuracy(_score(net, plan, supernet, exporter=exporter, artifact=artifact)),
            "latency": _latency(member, artifact, plan, folder, request),
        }
        main = main or (artifact, agreement)
    exports[WEIGHTS_FORM], source = _weights_form(net, plan, supernet)
    files.update(source)
    earlier = _earlier(folder, member, files)
    card = {
        **_card(net, plan, folder, request),
        "agreement": None if main is None else asdict(main[1]),
        "precision": None if main is None else main[0].precision,
        "artifact_sha256": None if main is None else main[0].sha256,
        "exports": {**earlier.get("exports", {}), **exports},
        "files": {**earlier.get("files", {}), **{name: _entry(content) for name, content in files.items()}},
    }
    for name, content in files.items():
        write_atomic(target / name, content)
    write_json(target / "card.json", card)
    return card


def artifact_of(member: Member, plan: Plan, folder: RunFolder, *, form: Form) -> Artifact:
    """Returns a net of the front in a form, exported now.

    Raises:
        RunFolderError, UserError: as `export_net`.
    """
    supernet = plan.supernet(meta=True)
    return _export(_net(member, plan, supernet, folder), form, form.exporter(), plan)


def default_forms(member: Member, measured: Any) -> list[Form]:
    """Returns what a net is handed over as: ONNX if it is fp32, and whatever else a device measured."""
    precision = str(member.architecture.get(PRECISION, "fp32"))
    forms = [Form("onnx")] if precision == "fp32" else []
    forms += [Form(a.format, a.precision) for a in measured]
    return list(dict.fromkeys(forms)) or [Form(registry.engine_of(precision).format, precision)]


def is_exported(member: Member, folder: RunFolder) -> bool:
    """Whether `models/<key>/` holds this member as it was validated, whole."""
    target = folder.models / member.key
    try:
        card = json.loads((target / "card.json").read_text())
        whole = all(_sha256((target / name).read_bytes()) == f["sha256"] for name, f in card["files"].items())
        shown = {name: metric["value"] for name, metric in card["metrics"].items()}
        return bool(whole and shown == member.validated and card["behind"] == member.behind)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _net(member: Member, plan: Plan, supernet: Supernet, folder: RunFolder) -> _Net:
    if member.error is not None:
        raise RunFolderError(f"net {member.key} must have been validated, but: {member.error}")
    if WEIGHTS not in member.artifacts:
        raise RunFolderError(
            f"net {member.key} must have weights to be exported, but this run counts costs alone: "
            "give supernet.weights, or an objective such as accuracy."
        )
    weights = folder.load_artifact(member.artifacts[WEIGHTS])
    if weights is None:
        raise RunFolderError(
            f"the weights of {member.key} must be in {folder.artifacts}, but they are not, or damaged: "
            "`hwsearch run` makes them again."
        )
    arch = supernet.space.architecture(member.architecture)
    generator = torch.Generator().manual_seed(0)
    example = supernet.family.example_inputs(batch=2, generator=generator, arch=arch)
    batches = [supernet.family.example_inputs(batch=8, generator=generator, arch=arch)]
    if plan.dataset is not None:
        rows = np.arange(min(REAL_INPUTS, len(plan.dataset.holdout)))
        batches.append((supernet.family.prepare(plan.dataset.holdout.inputs(rows), arch),))
    return _Net(member, arch, plain_module(supernet, member.architecture, weights), example, batches, weights)


def _kind(form: Form) -> tuple[str, str]:
    return form.format, form.precision


def _export(net: _Net, form: Form, exporter: Exporter, plan: Plan) -> Artifact:
    calibration: list[tuple[Tensor, ...]] = []
    if form.precision not in ("fp32", "bf16"):
        if plan.dataset is None:
            raise UserError(f"--format {form.name} must have training data to calibrate on, but this run has none.")
        settings = plan.config.evaluation
        inputs = calibration_batches(plan.dataset.train, n=settings.quantization_images)
        calibration = [(plan.family.prepare(x, net.arch),) for x in inputs]
    costs = net.weights.costs
    return exporter.export(net.module, net.example, precision=form.precision, costs=costs, calibration=calibration)


def _score(
    net: _Net, plan: Plan, supernet: Supernet, *, exporter: Exporter, artifact: Artifact
) -> tuple[Score, str] | None:
    if plan.dataset is None or not plan.needs_network:
        return None
    score = evaluate_artifact(
        exporter,
        artifact,
        plan.dataset.holdout,
        batch_size=plan.config.evaluation.batch,
        prepare=lambda inputs: supernet.family.prepare(inputs, net.arch),
    )
    return score, artifact.format


def _accuracy(scored: tuple[Score, str] | None) -> dict[str, Any] | None:
    if scored is None:
        return None
    score, engine = scored
    return {"value": score.accuracy, "std": score.accuracy_std, "n": score.n, "split": "holdout", "engine": engine}


def _weights_form(net: _Net, plan: Plan, supernet: Supernet) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Returns the card's entry for the weights, and model.py, which is run as its user would and compared."""
    entry: dict[str, Any] = {
        "format": WEIGHTS_FORM,
        "precision": "fp32",
        "entry": "model.safetensors",
        "files": sorted(net.weights.files),
        "artifact_sha256": net.weights.sha256,
    }
    try:
        source = model_source(net.module, n_inputs=len(net.example), title=f"Net {net.member.key}.")
    except UserError as error:
        return {**entry, "model_py": str(error)}, {}
    namespace = types.ModuleType("model")
    namespace.__file__ = "model.py"
    exec(compile(source, "model.py", "exec"), namespace.__dict__)  # our own text, not a file's
    model = namespace.Model()
    model.load_state_dict(decode(net.weights.files["model.safetensors"]))
    model.eval()

    def run(batch: tuple[Tensor, ...]) -> np.ndarray[Any, Any]:
        with torch.no_grad():
            out: np.ndarray[Any, Any] = model(*batch).numpy()
        return out

    agreement = compare_outputs(net.module, run, batches=net.batches, what="model.py")
    if not agreement.max_rel_error <= FP32_TOLERANCE:
        raise DeviceError(f"model.py must agree with its module, but differs by {agreement.max_rel_error:.3g}.")
    score = None
    if plan.dataset is not None and plan.needs_network:
        settings = plan.config.evaluation
        prepared = supernet.family.prepare
        score = evaluate(
            model, plan.dataset.holdout, batch_size=settings.batch, prepare=lambda x: prepared(x, net.arch)
        )
    entry["files"] = sorted([*net.weights.files, "model.py"])
    entry["agreement"] = asdict(agreement)
    entry["accuracy"] = _accuracy(None if score is None else (score, "torch"))
    return entry, {"model.py": source.encode()}


def _latency(
    member: Member, artifact: Artifact, plan: Plan, folder: RunFolder, request: Request
) -> dict[str, dict[str, Any]]:
    """Returns device -> latency with its 95 % half-width, or one line why there is none."""
    digest = artifact.sha256
    found: dict[str, dict[str, Any]] = {}
    for name, said in member.measured.items():
        if member.artifacts.get(name) == digest and "latency_ms" in said:
            value, std = (v.get(f"latency_ms@{name}") for v in (member.validated, member.validated_stds))
            found[name] = {"value": value, "half_width": None if std is None else 1.96 * std, **said["latency_ms"]}
    if not request.measure:
        return found
    for name, spec in _targets(artifact, plan, request).items():
        if name in found:
            continue
        try:
            device = _device(name, spec, plan, folder)
            (result,) = device.measure([artifact])
            found[name] = _said(result["latency_ms"])
        except (DeviceError, UserError) as error:
            found[name] = {"value": None, "error": " ".join(str(error).split())}
    return found


def _targets(artifact: Artifact, plan: Plan, request: Request) -> dict[str, DeviceSpec]:
    """Returns the devices to time an artifact on: asked for, of the run, or else the runtime of its format."""
    targets = {spec.name: spec for spec in request.devices}
    for name in plan.measured:
        formats = plan.device_types[name].opens(plan.devices[name])
        if artifact.format in formats and artifact.precision in plan.devices[name].precisions:
            targets.setdefault(name, plan.devices[name])
    if not targets and artifact.format in RUNTIMES:
        runtime = RUNTIMES[artifact.format]
        batch = next((plan.devices[name].batch for name in plan.measured), 1)  # numbers in one table must be comparable
        targets[runtime] = DeviceSpec(name=runtime, runtime=runtime, precisions=(artifact.precision,), batch=batch)
    return targets


def _device(name: str, spec: DeviceSpec, plan: Plan, folder: RunFolder) -> Device:
    if name in plan.devices:
        return plan.device(name, reference_ms=folder.references().get(name))
    made: Device = registry.named("devices", spec.runtime, f"device {name}: runtime")(spec)
    return made


def _said(measurement: Measurement) -> dict[str, Any]:
    std = measurement.std
    return {
        "value": measurement.value,
        "half_width": None if math.isnan(std) else 1.96 * std,
        "repeats": measurement.repeats,
        "raw": measurement.raw,
        "unit": measurement.unit,
        "environment": dict(measurement.environment),
    }


def _card(net: _Net, plan: Plan, folder: RunFolder, request: Request) -> dict[str, Any]:
    member, config = net.member, plan.config
    spread = member.validated_stds
    return {
        "format_version": 1,
        "key": member.key,
        "architecture": dict(member.architecture),
        "metrics": {name: {"value": v, "std": spread.get(name)} for name, v in member.validated.items()},
        "search_metrics": {name: {"value": v, "std": member.stds.get(name)} for name, v in member.metrics.items()},
        "measured": dict(member.measured),
        "refused": dict(member.refused),
        "behind": member.behind,
        "passed_limits": list(member.passed),
        "weights": plan.weights_are,
        "license": request.license or config.export.license or "not stated",
        "provenance": {
            "run": config.name,
            "trial": member.index,
            "family": config.supernet.family,
            "seed": config.seed,
            "space": plan.space.fingerprint,
            "inputs": _inputs(folder),
        },
        "input_shapes": [list(tensor.shape[1:]) for tensor in net.example],
        "data": None if plan.dataset is None else plan.dataset.card(),
        "versions": versions(),
        "command": list(request.command),
    }


def _inputs(folder: RunFolder) -> Any:
    """Returns the digests of data and weights that the run noted when it started."""
    try:
        return json.loads(folder.environment.read_text())["inputs"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _earlier(folder: RunFolder, member: Member, files: Mapping[str, bytes]) -> dict[str, Any]:
    """Returns what the card says of forms exported before: nothing, if they are of other weights or damaged."""
    path = folder.models / member.key / "card.json"
    try:
        card = json.loads(path.read_text())
        same = card["files"]["model.safetensors"]["sha256"] == _sha256(files["model.safetensors"])
        if not same or not is_exported(member, folder):
            return {}
        return {"exports": card["exports"], "files": card["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _entry(content: bytes) -> dict[str, Any]:
    return {"bytes": len(content), "sha256": _sha256(content)}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
