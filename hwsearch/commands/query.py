"""Queries: front, export, measure, predict, space. They read runs and configurations and return plain data."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from hwsearch import build
from hwsearch import config as configuration
from hwsearch.build import Plan, registry
from hwsearch.commands.fitting import MIN_ROWS, predictor_path
from hwsearch.construct import construct
from hwsearch.devices.base import DeviceSpec
from hwsearch.errors import ConfigError, RunFolderError, UserError
from hwsearch.front import load_front, robust_of
from hwsearch.objectives import COST_METRICS, Objective
from hwsearch.runfolder import RunFolder
from predictors.base import Sources
from predictors.files import load as load_predictor
from search_spaces.architecture import Architecture
from search_spaces.space import SearchSpace
from search_spaces.supernet import Supernet


def front(run: Path, *, device: str | None = None, robust: bool = False) -> dict[str, Any]:
    """Returns objectives and members of a run's validated front, JSON-able.

    Args:
        run: folder of the run.
        device: only the nets that are best for this device, and only its objectives.
        robust: only the nets that every device measured, that keep all limits, and that no other such net beats.

    Raises:
        UserError: no objective is measured on this device; both a device and robust.
    """
    folder = RunFolder(run).require()
    members = load_front(folder)  # a clear message when there is none
    content: dict[str, Any] = json.loads(folder.front_json.read_text())
    if device is not None and robust:
        raise UserError("--robust must be given without --device: it is about all devices.")
    if robust:
        tracked = [[Objective(**o) for o in content[name]] for name in ("objectives", "limits")]
        keys = robust_of(members, *tracked)
        return {**content, "members": [m for m in content["members"] if m["key"] in keys]}
    if device is None:
        return content
    fronts = content.get("fronts", {})
    if device not in fronts:
        raise UserError(f"--device must be a device of the run's objectives ({list(fronts)}), but got {device!r}.")
    return {
        **content,
        "objectives": [o for o in content["objectives"] if o["device"] in (None, device)],
        "members": [m for m in content["members"] if m["key"] in fronts[device]],
    }


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
    if name in registry.DEVICES:
        return DeviceSpec(name=name, runtime=name)
    known = sorted([*(plan.devices if plan else {}), *registry.DEVICES])
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
                    f"{run} must hold a predictor of {name}, but it does not: the run has not ended, or fewer "
                    f"than {MIN_ROWS} of its trials have that metric."
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
        "fixed": [asdict(f) for f in getattr(plan.family, "fixed", ())],
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
