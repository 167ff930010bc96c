"""The validated front: members measured again, scored on the hold-out, exported, and handed over with a card."""

from __future__ import annotations

import copy
import csv
import io
import json
import math
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch

from hwsearch import __version__, pareto
from hwsearch.distribution.executor import Executor
from hwsearch.distribution.jobs import Evaluated, EvaluateJob, MeasureJob
from hwsearch.errors import RunFolderError, UserError
from hwsearch.export.weights import decode
from hwsearch.objectives import Objective
from hwsearch.results import Artifact
from hwsearch.runfolder import RunFolder, write_atomic, write_json
from hwsearch.study import Study, Trial
from search_spaces.supernet import Supernet

ERRORS = 2.0
"""Standard errors on either side of a value: what lies within is not told apart."""


@dataclass(frozen=True)
class Member:
    """One net of the front.

    Args:
        key: digest of its architecture.
        index: proposal index.
        architecture: active genes and values.
        metrics, stds: from the search (accuracy on the search split).
        validated: the same metrics again: hold-out accuracy, a new measurement of the same artifact.
        validated_stds: spread of these.
        behind: another member is at least as good in every validated objective and better in one.
        ties: keys of members that the validated values cannot tell from it: the intervals of two standard errors
            overlap in every objective.
        front_probability: that no trial of the search truly beats it, given the spread of all labels; None where the
            engine cannot say.
        passed: limits that the validated values pass.
        remade: made again for validation, it got other weights than in the search (another machine or library).
        artifacts: name -> digest; `weights` holds the subnet's own weights.
        measured: device -> what the new measurement says of itself (repeats, environment).
        refused: device that was to measure it -> why it could not.
        error: why validation failed, or None.
    """

    key: str
    index: int
    architecture: Mapping[str, Any]
    metrics: Mapping[str, float]
    stds: Mapping[str, float]
    validated: Mapping[str, float] = field(default_factory=dict)
    validated_stds: Mapping[str, float] = field(default_factory=dict)
    behind: bool = False
    ties: tuple[str, ...] = ()
    front_probability: float | None = None
    passed: tuple[str, ...] = ()
    remade: bool = False
    artifacts: Mapping[str, str] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    error: str | None = None


def load_front(folder: RunFolder) -> list[Member]:
    """Returns the validated front of a run.

    Raises:
        RunFolderError: the run has none yet.
    """
    try:
        rows = json.loads(folder.front_json.read_text())["members"]
        return [Member(**{**row, **{n: tuple(row.get(n, ())) for n in ("passed", "ties")}}) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(
            f"{folder.path} must hold a validated front (front.json), but the run has not come that far."
        ) from error


def contending(study: Study, probabilities: Mapping[int, float], at_least: float | None) -> list[Trial]:
    """Returns the trials to validate: the front of the labels, and what noise alone may have kept off it.

    Args:
        study: the record.
        probabilities: proposal index -> probability to be on the true front; empty where nobody can say.
        at_least: trials with so much join the front; None: the front alone.
    """
    front = {trial.index for trial in study.front()}
    if at_least is not None:
        front |= {index for index, said in probabilities.items() if said >= at_least}
    return [trial for trial in study.trials if trial.index in front]


def stored_front(
    study: Study, folder: RunFolder, *, contenders: float | None, trials: Sequence[Trial] | None = None
) -> list[Member] | None:
    """Returns the front that was validated before, if it is still the study's and nothing of it is missing.

    Args:
        study: the record.
        folder: of the run.
        contenders: probability from which on trials are validated.
        trials: what would be validated now; None: the same as then, unless results or the probability changed.
    """
    try:
        stored = load_front(folder)
        content = json.loads(folder.front_json.read_text())
    except RunFolderError:
        return None
    tracked = {"objectives": study.objectives, "limits": study.limits}
    if any(content.get(name) != [asdict(o) for o in values] for name, values in tracked.items()):
        return None
    if trials is None:
        same = content.get("chosen_by") == _chosen_by(study, contenders)
        kept = {m.index for m in stored} if same else set()
        trials = [t for t in study.trials if t.index in kept] or study.front()
    if [m.index for m in stored] != [t.index for t in trials] or any(m.error for m in stored):
        return None
    if any(not set(study.places(t.row)) <= {*m.measured, *m.refused} for m, t in zip(stored, trials, strict=True)):
        return None  # a device that was left out is back
    if any(folder.load_artifact(digest) is None for m in stored for digest in m.artifacts.values()):
        return None
    return stored


def _chosen_by(study: Study, contenders: float | None) -> dict[str, Any]:
    """Returns what decides who is validated, for `front.json`."""
    return {"arrived": sum(len(trial.arrived) for trial in study.trials), "contenders": contenders}


def validate(
    study: Study,
    executor: Executor,
    folder: RunFolder,
    *,
    probabilities: Mapping[int, float] | None = None,
    contenders: float | None = None,
    observe: Callable[[int, int], None] | None = None,
) -> list[Member]:
    """Returns the front and its contenders, all measured again and scored on the hold-out; stored in the run folder.

    Nothing is selected on the hold-out: members that fall behind are kept and flagged. A front that was
    validated before is returned as it is.

    Args:
        study: the record.
        executor: idle.
        folder: of the run.
        probabilities: proposal index -> probability to be on the true front; None where the engine cannot say.
        contenders: probability from which on a trial is validated though the labels' front misses it; None: never.
        observe: called with (done, total) steps.
    """
    said = probabilities or {}
    trials = contending(study, said, contenders)
    stored = stored_front(study, folder, contenders=contenders, trials=trials)
    chosen_by = _chosen_by(study, contenders)
    if stored is not None:
        members = [replace(m, front_probability=said.get(m.index)) for m in stored]  # more trials, the same front
        save_front(members, study.objectives, study.limits, folder, chosen_by=chosen_by)
        return members
    again: dict[int, Evaluated] = {}
    measured: dict[int, dict[str, Any]] = {trial.index: {} for trial in trials}
    errors: dict[int, str] = {}
    refused: dict[int, dict[str, str]] = {trial.index: {} for trial in trials}
    total, done = sum(1 + len(study.places(trial.row)) for trial in trials), 0

    def finish() -> None:
        nonlocal done
        while not executor.idle:
            for result in executor.wait(1.0):
                if isinstance(result, Evaluated):
                    done += 1
                    again[result.job.index] = result
                    if result.evaluation.error is not None:
                        errors[result.job.index] = result.evaluation.error
                    continue
                for index, outcome in zip(result.job.indices, result.results, strict=True):
                    done += 1
                    if isinstance(outcome, str):
                        refused[index][result.job.device] = outcome
                    else:
                        measured[index][result.job.device] = outcome
                        if result.job.device not in executor.references:
                            executor.references.update(folder.freeze_reference(result.job.device, outcome))
            if observe is not None:
                observe(done, total)

    for trial in trials:
        executor.submit(EvaluateJob(trial.index, trial.row, split="holdout"))
    finish()
    # Everything is scored before anything is timed: all members are then timed side by side.
    for device in study.devices:
        for trial in trials:
            if trial.index in errors or device not in study.places(trial.row):
                continue
            artifact = again[trial.index].artifacts.get(device)
            if artifact is None:
                refused[trial.index][device] = "it could not be exported"
            else:
                executor.submit(MeasureJob(device, (trial.index,), (artifact,)))
    finish()
    for index, reasons in refused.items():
        if reasons and not measured[index]:
            device, reason = next(iter(reasons.items()))
            errors.setdefault(index, f"{device}: {reason}")
    members = [
        replace(
            _member(trial, again[trial.index], measured[trial.index], refused[trial.index], errors, study, folder),
            front_probability=said.get(trial.index),
        )
        for trial in trials
    ]
    members = _flag(members, study.objectives, study.limits)
    save_front(members, study.objectives, study.limits, folder, chosen_by=chosen_by)
    return members


def _member(
    trial: Trial,
    again: Evaluated,
    measured: Mapping[str, Any],
    refused: Mapping[str, str],
    errors: Mapping[int, str],
    study: Study,
    folder: RunFolder,
) -> Member:
    metrics = dict(again.evaluation.metrics)
    stds = dict(again.evaluation.stds)
    details: dict[str, Any] = {}
    for device, outcome in measured.items():
        for metric, measurement in outcome.items():
            metrics[f"{metric}@{device}"] = measurement.value
            if not math.isnan(measurement.std):
                stds[f"{metric}@{device}"] = measurement.std
        details[device] = {
            metric: {"repeats": m.repeats, "raw": m.raw, "unit": m.unit, "environment": dict(m.environment)}
            for metric, m in outcome.items()
        }
    artifacts = {name: folder.store(artifact) for name, artifact in again.artifacts.items()}
    before, now = (a.get("weights_sha256") for a in (trial.attributes, again.evaluation.attributes))
    return Member(
        key=trial.key,
        index=trial.index,
        architecture=study.space.architecture(trial.row).to_dict(),
        metrics=trial.metrics,
        stds=trial.stds,
        validated=metrics,
        validated_stds=stds,
        artifacts=artifacts,
        measured=details,
        refused=refused,
        remade=before is not None and now is not None and before != now,
        error=errors.get(trial.index),
    )


def _flag(members: list[Member], objectives: Sequence[Objective], limits: Sequence[Objective]) -> list[Member]:
    """Marks members whose validated values another member dominates or ties with, or pass a limit."""
    if not members:
        return members
    losses = np.array([[o.loss(m.validated.get(o.name, math.nan)) for o in objectives] for m in members])
    # Not every device measures every net: what another one measured, and this one did not, lies beyond the worst.
    elsewhere = np.array([[bool(o.device and m.measured) for o in objectives] for m in members])
    absent = np.isnan(losses) & elsewhere & np.array([m.error is None for m in members])[:, None]
    best = pareto.front(pareto.beyond(losses, absent))
    stds = np.array([[m.validated_stds.get(o.name, 0.0) for o in objectives] for m in members])
    alike = pareto.overlapping(losses, ERRORS * np.nan_to_num(stds))
    return [
        replace(
            m,
            behind=not bool(keep),
            ties=tuple(other.key for other, tied in zip(members, row, strict=True) if tied and other is not m),
            passed=tuple(o.name for o in limits if o.violation(m.validated.get(o.name, math.nan)) > 0),
        )
        for m, keep, row in zip(members, best, alike, strict=True)
    ]


def save_front(
    members: Sequence[Member],
    objectives: Sequence[Objective],
    limits: Sequence[Objective],
    folder: RunFolder,
    *,
    chosen_by: Mapping[str, Any] | None = None,
) -> None:
    """Writes `front.csv` and `front.json`; `chosen_by` says what decided who was validated."""
    names = [o.name for o in objectives]
    names += [o.name for o in limits if o.name not in names]
    genes = list(dict.fromkeys(gene for member in members for gene in member.architecture))
    text = io.StringIO()
    writer = csv.writer(text)
    head = ["key", "trial", "behind", "ties", "front_probability", "passed_limits", "error"]
    for name in names:
        head += [f"{name}:search", f"{name}:validated", f"{name}:validated_std"]
    writer.writerow([*head, *genes])
    for member in members:
        passed = " ".join(member.passed)
        row: list[object] = [member.key, member.index, member.behind, " ".join(member.ties), member.front_probability]
        row += [passed, member.error or ""]
        for name in names:
            row += [member.metrics.get(name), member.validated.get(name), member.validated_stds.get(name)]
        writer.writerow([*row, *[member.architecture.get(gene) for gene in genes]])
    write_atomic(folder.front_csv, text.getvalue().encode())
    content = {
        "format_version": 1,
        "objectives": [asdict(o) for o in objectives],
        "limits": [asdict(o) for o in limits],
        "chosen_by": chosen_by,
        "members": [asdict(m) for m in members],
        "fronts": {device: front_of(members, device, objectives) for device in devices_of(objectives)},
        "robust": robust_of(members, objectives, limits),
    }
    write_json(folder.front_json, content)


def devices_of(objectives: Sequence[Objective]) -> list[str]:
    """Returns the devices of objectives, in order."""
    return list(dict.fromkeys(o.device for o in objectives if o.device is not None))


def front_of(members: Sequence[Member], device: str, objectives: Sequence[Objective]) -> list[str]:
    """Returns the keys of the members that are best for one device, by their validated values.

    Only what that device measured takes part, and only its own objectives and those of no device count.
    """
    own = [o for o in objectives if o.device in (None, device)]
    losses = np.array([[o.loss(m.validated.get(o.name, math.nan)) for o in own] for m in members])
    losses = losses.reshape(len(members), len(own))
    return [m.key for m, best in zip(members, pareto.front(losses), strict=True) if best and m.error is None]


def robust_of(members: Sequence[Member], objectives: Sequence[Objective], limits: Sequence[Objective]) -> list[str]:
    """Returns the keys of the members that do on every device, by their validated values.

    They were measured on all devices, keep all limits, and no other such member beats them in all objectives.
    """

    def does(member: Member) -> bool:
        kept = all(o.violation(member.validated.get(o.name, math.nan)) <= 0 for o in limits)
        return kept and member.error is None and all(o.name in member.validated for o in objectives)

    fit = [m for m in members if does(m)]
    losses = np.array([[o.loss(m.validated[o.name]) for o in objectives] for m in fit]).reshape(-1, len(objectives))
    return [m.key for m, best in zip(fit, pareto.front(losses), strict=True) if best]


def spread(members: Sequence[Member], count: int, objective: Objective) -> list[Member]:
    """Returns `count` members evenly spread along the order of an objective, the ends included."""
    ranked = sorted(members, key=lambda m: objective.loss(m.validated.get(objective.name, math.nan)))
    if count >= len(ranked):
        return list(members)
    at = np.unique(np.round(np.linspace(0, len(ranked) - 1, count)).astype(int)) if count > 1 else np.arange(count)
    return [ranked[i] for i in at]


def plain_module(supernet: Supernet, architecture: Mapping[str, Any], weights: Artifact) -> torch.nn.Module:
    """Returns the subnet as a plain module in eval mode, with its own stored weights."""
    module = copy.deepcopy(supernet.build(supernet.space.architecture(architecture)))
    module.load_state_dict(decode(weights.files["model.safetensors"]), assign=True)
    return module.eval()


def choose(members: Sequence[Member], prefer: Objective, limits: Sequence[Objective]) -> Member:
    """Returns the validated member that is best in `prefer` among those that keep all limits.

    Raises:
        UserError: a metric that no member has, or no member keeps the limits.
    """
    known = sorted({name for m in members for name in m.validated})
    for objective in (prefer, *limits):
        if objective.name not in known:
            raise UserError(f"the metric must be one of {known}, but got {objective.name!r}.")
    members = [m for m in members if m.error is None and prefer.name in m.validated]
    kept = [m for m in members if all(o.violation(m.validated.get(o.name, math.nan)) <= 0 for o in limits)]
    if not kept:
        shown = ", ".join(f"{o.name} {'<=' if o.sign > 0 else '>='} {o.limit:g}" for o in limits if o.limit is not None)
        raise UserError(f"at least one member of the front must keep {shown}, but none of {len(members)} does.")
    return min(kept, key=lambda m: prefer.loss(m.validated[prefer.name]))


def versions() -> dict[str, str]:
    """Returns what the numbers of this process depend on, for cards and `environment.json`."""
    found = {"hwsearch": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for name in ("torch", "numpy", "onnx", "onnxruntime", "optuna", "ray", "scikit-learn"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return {**found, "executable": sys.executable}
