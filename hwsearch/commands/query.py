"""Queries: front, export, measure, predict, space. They read runs and configurations and return plain data."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from hwsearch import build
from hwsearch import config as configuration
from hwsearch.build import Plan
from hwsearch.commands.fitting import MIN_ROWS, predictor_path
from hwsearch.construct import construct
from hwsearch.devices.base import DeviceSpec
from hwsearch.distribution.workers import WEIGHTS
from hwsearch.errors import ConfigError, RunFolderError, UserError
from hwsearch.export.onnx_exporter import OnnxExporter
from hwsearch.front import Member, choose, export_member, load_front
from hwsearch.objectives import COST_METRICS, MAXIMISED, Objective
from hwsearch.results import Artifact
from hwsearch.runfolder import RunFolder
from predictors.base import Sources
from predictors.files import load as load_predictor
from search_spaces.architecture import Architecture
from search_spaces.space import SearchSpace
from search_spaces.supernet import Supernet


def front(run: Path) -> dict[str, Any]:
    """Returns objectives and members of a run's validated front, JSON-able."""
    folder = RunFolder(run).require()
    load_front(folder)  # a clear message when there is none
    content: dict[str, Any] = json.loads(folder.front_json.read_text())
    return content


def run_plan(run: Path) -> tuple[Plan, RunFolder]:
    """Returns the plan and folder of an existing run."""
    folder = RunFolder(run)
    return build.load_raw(folder.load_config(), source=str(folder.config)), folder


def parse_limit(text: str) -> Objective:
    """Returns the limit in `metric[@device]:min=VALUE` or `:max=VALUE`.

    Raises:
        UserError: another form.
    """
    match = re.fullmatch(r"([A-Za-z_0-9]+)(?:@([A-Za-z0-9_.-]+))?:(min|max)=([-+0-9.eE]+)", text)
    try:
        value = float(match[4]) if match else None
    except ValueError:
        value = None
    if match is None or value is None:
        raise UserError(f"--limit must be metric:min=VALUE or metric@device:max=VALUE, but got {text!r}.")
    return Objective(match[1], match[2], "minimize" if match[3] == "max" else "maximize", limit=value)


def export(
    run: Path,
    *,
    key: str | None = None,
    trial: int | None = None,
    prefer: str | None = None,
    limits: Sequence[str] = (),
    out: Path | None = None,
) -> dict[str, Any]:
    """Exports one net of the validated front and returns its card with the folder it lies in.

    Args:
        run: folder of the run.
        key: of the architecture.
        trial: or its proposal index.
        prefer: or the metric to be best in.
        limits: that the chosen net keeps, see `parse_limit`.
        out: folder to write to; `<run>/models` by default.

    Raises:
        UserError: not exactly one way of choosing, or no such net on the front.
    """
    if sum(given is not None for given in (key, trial, prefer)) != 1:
        raise UserError("export must be told one of --key, --trial or --prefer.")
    plan, folder = run_plan(run)
    members = load_front(folder)
    if prefer is not None:
        member = choose(members, _metric(prefer, members), [_limit(text, members) for text in limits])
    else:
        found = [m for m in members if m.key == key or m.index == trial]
        if not found:
            wanted = f"key {key!r}" if key is not None else f"trial {trial}"
            raise UserError(
                f"only measured and validated nets are exported: the front holds {[m.key for m in members]}, "
                f"but not {wanted}."
            )
        member = found[0]
    target = folder if out is None else RunFolder(folder.path)
    if out is not None:
        target.models = out
    command = ["hwsearch", *sys.argv[1:]]
    export_member(
        member,
        plan.supernet(meta=True),
        target,
        exporter=OnnxExporter(),
        dataset=plan.dataset,
        origin=plan.weights_are,
        command=command,
    )
    path = target.models / member.key
    card: dict[str, Any] = json.loads((path / "card.json").read_text())
    return {"folder": str(path), "card": card}


def _limit(text: str, members: Sequence[Member]) -> Objective:
    """Returns a limit whose metric may leave out the device when only one measures it."""
    limit = parse_limit(text)
    known = _metric(limit.name, members)
    return Objective(known.metric, known.device, limit.direction, limit=limit.limit)


def _metric(text: str, members: Sequence[Member]) -> Objective:
    """Returns the metric as an objective; `latency_ms` stands for `latency_ms@cpu` when only one device has it."""
    known = sorted({name for m in members for name in m.validated})
    matches = [name for name in known if name == text or name.split("@")[0] == text]
    if len(matches) != 1:
        raise UserError(f"the metric must be one of {known}, but got {text!r}.")
    metric, _, device = matches[0].partition("@")
    return Objective(metric, device or None, "maximize" if metric in MAXIMISED else "minimize")


def measure(target: str, devices: Sequence[str], *, batch: int | None = None) -> list[dict[str, Any]]:
    """Measures one model on devices and returns one row per device and metric.

    Args:
        target: `MODEL.onnx`, or `RUN:KEY` for a net of a run's front.
        devices: each a YAML file with a device, the name of a device of the run, or the name of a runtime.
        batch: overrides the devices' batch.

    Raises:
        UserError: nothing to measure, or no such device.
    """
    artifacts, plan, folder = _artifacts(target)
    rows = []
    for name in devices:
        spec = device_spec(name, plan)
        if folder is not None and plan is not None and name in plan.devices and spec.reference_ms is None:
            spec = spec.model_copy(update={"reference_ms": folder.references().get(name)})  # as in the run
        if batch is not None:
            spec = spec.model_copy(update={"batch": batch})
        device = build.named("devices", spec.runtime, f"device {name}: runtime")(spec)
        fitting = [a for a in artifacts if not device.formats or a.format in device.formats]
        for metric, measurement in device.measure([(fitting or artifacts)[0]])[0].items():
            rows.append({"device": spec.name, "metric": metric, "batch": spec.batch, **asdict(measurement)})
    return rows


def _artifacts(target: str) -> tuple[list[Artifact], Plan | None, RunFolder | None]:
    """Returns the formats that a model is there in, and the run that it is from."""
    if target.endswith(".onnx"):
        path = Path(target)
        if not path.is_file():
            raise UserError(f"a model must be an ONNX file or RUN:KEY, but {path} does not exist.")
        return [Artifact("onnx", "fp32", {"model.onnx": path.read_bytes()}, "model.onnx")], None, None
    run, found, key = target.rpartition(":")
    if not found:
        raise UserError(f"a model must be MODEL.onnx or RUN:KEY, but got {target!r}.")
    plan, folder = run_plan(Path(run))
    members = {m.key: m for m in load_front(folder)}
    if key not in members:
        raise UserError(f"the net must be on the front ({list(members)}), but got {key!r}.")
    stored = [folder.load_artifact(d) for name, d in members[key].artifacts.items() if name != WEIGHTS]
    artifacts = [a for a in stored if a is not None]
    exported = folder.models / key / "model.onnx"
    if exported.is_file() and all(a.format != "onnx" for a in artifacts):
        costs = artifacts[0].costs if artifacts else {}
        artifacts.append(Artifact("onnx", "fp32", {"model.onnx": exported.read_bytes()}, "model.onnx", costs=costs))
    if not artifacts:
        raise UserError(f"net {key} must be there in a format that a device takes, but {folder.path} holds none.")
    return artifacts, plan, folder


def device_spec(name: str, plan: Plan | None) -> DeviceSpec:
    """Returns a device of the plan, of a YAML file, or a runtime with default settings.

    Raises:
        UserError: none of these.
    """
    if plan is not None and name in plan.devices:
        return plan.devices[name]
    path = Path(name)
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise UserError(f"a device must be a YAML file or a known name, but {path} does not exist.")
        try:
            raw = yaml.safe_load(path.read_text())
        except yaml.YAMLError as error:
            raise ConfigError(f"{path} must be valid YAML, but: {' '.join(str(error).split())}") from error
        if not isinstance(raw, dict):
            raise ConfigError(f"{path} must hold a mapping, but holds {type(raw).__name__}.")
        raw.setdefault("name", path.stem)
        spec: DeviceSpec = construct(DeviceSpec, raw, where=str(path), given={})
        return spec
    if name in build.DEVICES:
        return DeviceSpec(name=name, runtime=name)
    known = sorted([*(plan.devices if plan else {}), *build.DEVICES])
    raise UserError(f"a device must be a YAML file or one of {known}, but got {name!r}.")


def predict(run: Path, archs: Sequence[str], *, metrics: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Predicts metrics of architectures from a run's predictors; exact costs are computed, not predicted.

    Args:
        run: folder of the run.
        archs: each JSON of gene values, a file with it, a key of a trial on the front, `smallest` or `largest`.
        metrics: by name; by default every objective of the run.

    Raises:
        UserError: unknown metric, no predictor stored, or an architecture outside the space.
    """
    plan, folder = run_plan(run)
    supernet = plan.supernet(meta=True)
    names = {o.name: o for o in (*plan.objectives, *plan.limits)}
    names.update({m: Objective(m, unit=unit) for m, unit in COST_METRICS.items() if m not in names})
    wanted = list(metrics) or [o.name for o in plan.objectives]
    unknown = [m for m in wanted if m not in names]
    if unknown:
        raise UserError(f"the metric must be one of {sorted(names)}, but got {unknown[0]!r}.")
    rows = []
    loaded = {}
    for name in wanted:
        if names[name].metric not in COST_METRICS:
            path = predictor_path(folder, names[name])
            if not path.is_file():
                raise UserError(
                    f"{run} must hold a predictor of {name}, but it does not: the run has not ended, or with fewer "
                    f"than {MIN_ROWS} trials that were measured."
                )
            loaded[name] = load_predictor(path, space=plan.space, sources=Sources(layers=supernet.layers)).predictor
    for text in archs:
        arch = architecture(text, plan.space, folder)
        row = plan.space.row(arch)[None]
        costs = supernet.costs(row).metrics()
        for name in wanted:
            objective = names[name]
            if name in loaded:
                prediction = loaded[name].predict(row)
                mean, std, kind = float(prediction.mean[0]), float(prediction.std[0]), "predicted"
            else:
                mean, std, kind = float(costs[objective.metric]), 0.0, "exact"
            rows.append(
                {"key": arch.key, "metric": name, "mean": mean, "std": std, "unit": objective.unit, "kind": kind}
            )
    return rows


def architecture(text: str, space: SearchSpace, folder: RunFolder | None = None) -> Architecture:
    """Returns the architecture in JSON, in a file with it, `smallest`, `largest`, or a key on the front of a run.

    Raises:
        UserError: none of these, or not of the space.
    """
    if text == "smallest":
        return space.smallest()
    if text == "largest":
        return space.largest()
    if folder is not None and re.fullmatch(r"[0-9a-f]{12}", text):
        try:
            for member in load_front(folder):
                if member.key == text:
                    return space.architecture(member.architecture)
        except RunFolderError:
            pass
        raise UserError(f"an architecture's key must be on the front of the run, but got {text!r}.")
    source = Path(text).read_text() if not text.lstrip().startswith("{") and Path(text).is_file() else text
    try:
        value = json.loads(source)
    except ValueError as error:
        raise UserError(
            "--arch must be JSON such as '{\"gene\": value}', a file with it, a key, 'smallest' or 'largest', "
            f"but got {text[:60]!r}."
        ) from error
    if not isinstance(value, Mapping):
        raise UserError(f"--arch must be a JSON object, but got {type(value).__name__}.")
    try:
        return space.architecture(value)
    except ValueError as error:
        raise UserError(f"--arch: {error}") from error


def space(config: Path, *, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Returns genes, size and the costs of the smallest and largest architecture of a configuration's space.

    The data need not be there if the family's own arguments say what shape it has.
    """
    plan = space_plan(config, tuple(overrides))
    supernet = plan.supernet(meta=True)
    return {
        "family": plan.family.name,
        "input_shape": list(plan.family.input_shape),
        "n_genes": plan.space.n_genes,
        "size": plan.space.size(),
        "fingerprint": plan.space.fingerprint,
        "genes": [
            {
                "name": g.name,
                "choices": list(g.choices),
                "active_when": {c.gene: list(c.values) for c in g.active_when},
            }
            for g in plan.space.genes
        ],
        "smallest": _extreme(supernet, plan.space.smallest()),
        "largest": _extreme(supernet, plan.space.largest()),
    }


def space_plan(config: Path, overrides: tuple[str, ...] = ()) -> Plan:
    """Returns the plan of a configuration; where only its data are missing, that of its space alone."""
    try:
        return build.load(config, overrides)
    except ConfigError as error:
        if not str(error).startswith(f"{config}: data: "):
            raise
        raw = configuration.read_yaml(config, overrides)
        bare: dict[str, Any] = {key: raw[key] for key in ("name", "seed", "supernet", "sparsity") if key in raw}
        try:
            return build.load_raw({**bare, "objectives": ["macs"]}, source=str(config))
        except ConfigError:
            raise error from None


def _extreme(supernet: Supernet, arch: Architecture) -> dict[str, Any]:
    return {"key": arch.key, **supernet.layer_costs(arch).metrics()}
