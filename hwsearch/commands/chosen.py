"""`hwsearch finetune` and `hwsearch verify`: train a chosen net on, and hold found nets against their controls."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from hwsearch import checkpoints
from hwsearch.build import Plan
from hwsearch.commands.query import run_plan
from hwsearch.commands.small_dense import SmallDense
from hwsearch.data.dataset import Dataset
from hwsearch.data.prepared import prepared
from hwsearch.distribution.workers import WEIGHTS
from hwsearch.errors import UserError
from hwsearch.evaluation import calibration_batches, correct_answers, evaluate
from hwsearch.export.onnx_exporter import OnnxExporter
from hwsearch.export.verify import verify as verify_export
from hwsearch.export.weights import encode, patterns_of
from hwsearch.front import Member, load_front, plain_module, spread, versions
from hwsearch.results import Artifact
from hwsearch.runfolder import RunFolder, write_atomic, write_json
from hwsearch.training.config import TrainingConfig
from hwsearch.training.finetuning import finetune as train_on
from hwsearch.training.progress import Progress
from hwsearch.training.verification import verify as hold_against_controls
from search_spaces.architecture import Architecture
from search_spaces.batchnorm import recalibrate

Teacher = Literal["supernet", "original", "none"]


@dataclass(frozen=True)
class Chosen:
    """A net of a run's front, ready to be trained.

    Args:
        plan: of the run.
        folder: of the run.
        member: as validated.
        arch: its architecture.
        module: plain, with its own weights.
        masks: of its sparse layers; empty for a dense net.
        dataset: as the net reads it (its resolution).
    """

    plan: Plan
    folder: RunFolder
    member: Member
    arch: Architecture
    module: nn.Module
    masks: Mapping[str, Tensor]
    dataset: Dataset


def chosen(plan: Plan, folder: RunFolder, member: Member) -> Chosen:
    """Returns a front's member with weights, masks and data.

    Raises:
        UserError: the run has no data, or the net no weights.
    """
    if plan.dataset is None:
        raise UserError(f"run {folder.path} must have data for a training, but its configuration names none.")
    stored = folder.load_artifact(member.artifacts[WEIGHTS]) if WEIGHTS in member.artifacts else None
    if stored is None:
        raise UserError(f"net {member.key} must have weights, but {folder.path} holds none: `hwsearch run` makes them.")
    supernet = plan.supernet(meta=True)
    arch = supernet.space.architecture(member.architecture)
    module = plain_module(supernet, member.architecture, stored)
    tensors = dict(module.named_parameters())
    sparse = patterns_of(supernet.layer_costs(arch).layers)
    masks = {name: tensors[name].detach() != 0 for name in sparse if bool((tensors[name] == 0).any())}
    dataset = prepared(plan.dataset, lambda inputs: supernet.family.prepare(inputs, arch))
    return Chosen(plan, folder, member, arch, module, masks, dataset)


def _member(target: str) -> tuple[Plan, RunFolder, Member]:
    run, found, key = target.rpartition(":")
    if not found:
        raise UserError(f"a net must be RUN:KEY, but got {target!r}.")
    plan, folder = run_plan(Path(run))
    members = {m.key: m for m in load_front(folder)}
    if key not in members:
        raise UserError(f"the net must be on the front ({list(members)}), but got {key!r}.")
    return plan, folder, members[key]


def _settings(plan: Plan, epochs: int | None, learning_rate: float | None) -> TrainingConfig:
    base: TrainingConfig = plan.training() or TrainingConfig(seed=plan.config.seed)
    update: dict[str, Any] = {"seconds": None, "reorder_epochs": ()}
    if epochs is not None:
        update["epochs"] = epochs
    if learning_rate is not None:
        update["learning_rate"] = learning_rate
    return TrainingConfig(**{**base.model_dump(), **update})


def finetune(
    target: str,
    *,
    epochs: int | None = None,
    learning_rate: float | None = None,
    teacher: Teacher = "supernet",
    progress: Callable[[Progress], None] | None = None,
) -> dict[str, Any]:
    """Trains a net of the front on, its zeros kept; returns its new card, JSON-able.

    The result is a record of its own, one per net and settings: `RUN/finetuned/KEY-<settings>/` with `model.onnx`,
    `model.safetensors`, `card.json`. It is scored on the hold-out and measured on the run's devices again; the front
    stays as it is.

    Args:
        target: `RUN:KEY`.
        epochs: by default those of the run's training.
        learning_rate: by default a quarter of the run's.
        teacher: soft labels of the largest subnet, of the net itself as it was, or none.
        progress: called after every step.

    Raises:
        UserError: no such net, no weights, or no data.
    """
    plan, folder, member = _member(target)
    net = chosen(plan, folder, member)
    settings = _settings(plan, epochs, learning_rate)
    if learning_rate is None:
        settings = settings.model_copy(update={"learning_rate": settings.learning_rate / 4})
    told = json.dumps([settings.model_dump(mode="json"), teacher], sort_keys=True)
    path = folder.path / "finetuned" / f"{member.key}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"
    tuned, result = train_on(
        net.module,
        net.dataset,
        settings,
        masks=net.masks,
        teacher=_teacher(net, teacher),
        checkpoint=path / "training.safetensors",
        progress=progress,
    )
    section = plan.config.evaluation
    batches = calibration_batches(net.dataset.train, n=section.calibration_images, batch_size=section.calibration_batch)
    recalibrate(tuned, batches)
    score = evaluate(tuned, net.dataset.holdout, batch_size=section.batch)
    supernet = plan.supernet(meta=True)
    costs = supernet.layer_costs(net.arch)
    patterns = patterns_of(costs.layers)
    exporter = OnnxExporter()
    example = supernet.family.example_inputs(batch=2, generator=torch.Generator().manual_seed(0), arch=net.arch)
    numbers = {name: float(value) for name, value in costs.metrics().items()}
    artifact = exporter.export(tuned, example, costs=numbers)
    inputs = net.dataset.holdout.inputs(np.arange(min(64, len(net.dataset.holdout))))
    agreement = verify_export(tuned, artifact, exporter, batches=[example, (inputs,)])
    state = tuned.state_dict()
    files = {
        "model.onnx": artifact.content,
        "model.safetensors": encode(state),
        "model.sparse.safetensors": encode(state, patterns),
    }
    card = {
        "format_version": 1,
        "key": member.key,
        "architecture": dict(member.architecture),
        "metrics": {
            "accuracy": {"value": score.accuracy, "std": score.accuracy_std},
            "loss": {"value": score.loss, "std": None},
            **{name: {"value": value, "std": None} for name, value in numbers.items()},
            **_measured(plan, folder, artifact),
        },
        "before": dict(member.validated),
        "training": settings.model_dump(mode="json"),
        "teacher": teacher,
        "training_digest": result.digest,
        "agreement": asdict(agreement),
        "data": net.dataset.card(),
        "files": {name: {"bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()} for name, c in files.items()},
        "versions": versions(),
        "command": ["hwsearch", *sys.argv[1:]],
    }
    for name, content in files.items():
        write_atomic(path / name, content)
    write_json(path / "card.json", card)
    return {"folder": str(path), "card": json.loads((path / "card.json").read_text())}


def _teacher(net: Chosen, teacher: Teacher) -> nn.Module | None:
    if teacher == "none":
        return None
    if teacher == "original":
        return net.module
    if not net.folder.supernet.is_file():
        raise UserError(f"{net.folder.supernet} must be there to teach, but is not: choose --teacher original or none.")
    supernet = net.plan.supernet()
    checkpoints.load_weights(supernet, net.folder.supernet)
    largest = supernet.space.largest()
    if "resolution" in net.arch:  # the teacher must read what the student reads
        largest = supernet.space.architecture({**largest, "resolution": net.arch["resolution"]})
    module = supernet.extract(largest)
    recalibrate(module, calibration_batches(net.dataset.train))
    return module


def _measured(plan: Plan, folder: RunFolder, artifact: Artifact) -> dict[str, Any]:
    """Returns device metrics of an ONNX artifact, on the run's devices that take one."""
    found = {}
    references = folder.references()
    for name in plan.measured:
        device = plan.device(name, reference_ms=references.get(name))
        if device.formats and artifact.format not in device.formats:
            continue
        for metric, measurement in device.measure([artifact])[0].items():
            found[f"{metric}@{name}"] = {"value": measurement.value, "std": measurement.std}
    return found


def verify(
    run: Path,
    *,
    keys: Sequence[str] = (),
    nets: int = 3,
    seeds: int = 3,
    epochs: int | None = None,
    note: Callable[[str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Retrains nets of the front from scratch and as random masks; returns the comparison, JSON-able.

    Every sparse net is also held against the best dense networks of the space with no more non-zeros, and no slower
    (`SmallDense`). Written to `RUN/verification.json` net by net; the same command goes on after an interruption.

    Args:
        run: folder of the run.
        keys: of the nets; by default `nets` ones spread over the front.
        nets: how many, where no keys are given.
        seeds: of every control.
        epochs: of a training from scratch; by default those of the run's training.
        note: called with a line when a net is done.
        progress: called with (trainings done, trainings in all).

    Raises:
        UserError: no such nets, no weights, or no data.
    """
    plan, folder = run_plan(run)
    members = {m.key: m for m in load_front(folder) if m.error is None}
    unknown = [key for key in keys if key not in members]
    if unknown:
        raise UserError(f"the net must be on the front ({list(members)}), but got {unknown[0]!r}.")
    if seeds < 1 or nets < 1:
        raise UserError(f"seeds and nets must be at least 1, but got {seeds} and {nets}.")
    picked = [members[k] for k in dict.fromkeys(keys)] or spread(list(members.values()), nets, plan.objectives[0])
    settings = _settings(plan, epochs, None)
    told = {"epochs": settings.epochs, "seeds": seeds, "training": settings.model_dump(mode="json")}
    path = folder.path / "verification.json"
    rows = _verified(path, told, picked)
    opened = [chosen(plan, folder, member) for member in picked]
    trainings = [seeds * (3 if net.masks else 2) for net in opened]
    dense: SmallDense | None = None
    for number, net in enumerate(opened):
        if net.member.key in rows:
            continue

        def answers(module: nn.Module, net: Chosen = net) -> Any:
            return correct_answers(module, net.dataset.holdout)

        def count(done: int, total: int, before: int = sum(trainings[:number])) -> None:
            if progress is not None:
                progress(before + done, sum(trainings))

        report = hold_against_controls(
            net.module, net.dataset, settings, masks=net.masks, answers=answers, seeds=range(seeds), progress=count
        )
        small: list[dict[str, Any]] = []
        if net.masks:
            dense = dense or SmallDense(plan, folder)
            small = dense.compare(net.member, net.module)
        weights = net.member.artifacts[WEIGHTS]
        rows[net.member.key] = {"key": net.member.key, "weights": weights, **asdict(report), "small_dense": small}
        write_json(path, {**told, "nets": list(rows.values())})
        if note is not None:
            note(f"{net.member.key}: {100 * report.accuracy:.2f} %, {len(report.controls)} controls x {seeds} seeds")
    content = {**told, "nets": [rows[member.key] for member in picked]}
    write_json(path, content)
    stored: dict[str, Any] = json.loads(path.read_text())
    return stored


def _verified(path: Path, told: Mapping[str, Any], picked: Sequence[Member]) -> dict[str, dict[str, Any]]:
    """Returns what an earlier call with the same settings found about these nets, by key."""
    try:
        content = json.loads(path.read_text())
        if any(content[name] != value for name, value in told.items()):
            return {}
        rows = {row["key"]: row for row in content["nets"]}
        return {m.key: rows[m.key] for m in picked if m.key in rows and rows[m.key]["weights"] == m.artifacts[WEIGHTS]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
