"""`hwsearch run`: from a configuration to a validated, exported front. The same call continues a run."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hwsearch import build
from hwsearch.build import Factory, Plan
from hwsearch.devices.environment import machine
from hwsearch.errors import DeviceError, RunFolderError
from hwsearch.export.onnx_exporter import OnnxExporter
from hwsearch.export.weights import encode
from hwsearch.front import Member, export_member, spread, validate, versions
from hwsearch.loop import Search
from hwsearch.objectives import COST_METRICS, Objective
from hwsearch.report.plot import front_png
from hwsearch.results import SearchProgress, State
from hwsearch.runfolder import RunFolder, RunLock, write_atomic, write_json
from hwsearch.study import Study, open_storage, repair_journal
from hwsearch.training.progress import Progress as TrainingProgress
from predictors.files import Card, save, training_digest
from predictors.ridge import Ridge
from predictors.validation import cross_validate
from search_spaces.supernet import Supernet

MIN_PREDICTOR_ROWS = 10


class Observer(Protocol):
    """Is told how a run comes along."""

    def phase(self, name: str) -> None:
        """A phase begins."""
        ...

    def note(self, text: str) -> None:
        """Something worth a line."""
        ...

    def training(self, progress: TrainingProgress) -> None:
        """A training step is done."""
        ...

    def search(self, progress: SearchProgress) -> None:
        """A trial arrived, or a second passed."""
        ...

    def validation(self, done: int, total: int) -> None:
        """A member of the front was scored or measured again."""
        ...


@dataclass(frozen=True)
class RunOutcome:
    """What a run leaves: its folder, the validated front (`front`: content of front.json), how many trials."""

    folder: RunFolder
    members: tuple[Member, ...]
    n_trials: int
    n_failed: int
    exhausted: bool
    exported: tuple[str, ...]
    front: Mapping[str, Any]


def run(config: Path, *, overrides: Sequence[str] = (), run_dir: Path | None = None, observer: Observer) -> RunOutcome:
    """Runs, or continues, the search that a configuration describes.

    Args:
        config: YAML file.
        overrides: `key.path=value`.
        run_dir: of the run; `runs/<name>` by default.
        observer: is told what happens.

    Raises:
        UserError: anything wrong with the configuration or the folder; nothing has been written then.
    """
    plan = build.load(config, tuple(overrides))
    folder = RunFolder(run_dir or Path("runs") / plan.config.name)
    supernet = plan.supernet()
    pretrained = build.pretrained(plan, supernet)
    check_identity(plan, folder)
    with RunLock(folder.path) as lock:
        if lock.stale_pid is not None:
            observer.note(f"continuing after process {lock.stale_pid}, which ended without finishing")
        folder.save_config(plan.config.to_dict())
        write_json(folder.environment, {"versions": versions(), "machine": dict(machine())})
        storage_url = plan.config.storage
        if storage_url is None:
            cut = repair_journal(folder.journal)
            if cut:
                observer.note(f"cut {cut} bytes of a torn last record from {folder.journal.name}")
        study = Study(
            plan.config.name,
            plan.space,
            objectives=plan.objectives,
            limits=plan.limits,
            devices=plan.measured,
            storage=open_storage(storage_url, folder.journal),
        )
        if study.trials:
            observer.note(f"continuing with {len(study.trials)} recorded trials")
        weights = _weights(plan, supernet, folder, observer, pretrained=pretrained)
        observer.phase("search")
        executor = plan.executor(Factory(plan.config.to_dict()), weights, ledger=folder.path / "ray.pids")
        try:
            search = Search(study, executor, plan.engine(), folder=folder)
            result = search.run(plan.config.search.trials, observe=observer.search)
            observer.phase("validate")
            members = validate(study, executor, folder, observe=observer.validation)
        finally:
            executor.close()
        observer.phase("export")
        exported = _export(plan, supernet, members, folder, observer)
        _fit_predictors(plan, study, folder)
        content = json.loads(folder.front_json.read_text())
        write_atomic(folder.front_png, front_png(study, content))
    return RunOutcome(
        folder=folder,
        members=tuple(members),
        n_trials=result.n_trials,
        n_failed=result.n_failed,
        exhausted=result.exhausted,
        exported=tuple(exported),
        front=content,
    )


def check_identity(plan: Plan, folder: RunFolder) -> None:
    """Checks that a run folder, if it exists, is of this run.

    A larger budget, another executor or added devices are a continuation.

    Raises:
        RunFolderError: the folder holds another run; names the difference.
    """
    if not folder.config.exists():
        return
    stored, current = folder.load_config(), plan.config.to_dict()
    for key in ("name", "seed", "supernet", "sparsity", "data", "training", "evaluation", "limits"):
        if stored.get(key) != current.get(key):
            raise RunFolderError(
                f"run folder {folder.path} must be of the same run, but its {_difference(key, stored, current)}."
            )
    old, new = stored.get("devices", {}), current["devices"]
    for name in old:
        if new.get(name) != old[name]:
            raise RunFolderError(
                f"run folder {folder.path} must be of the same run, but its {_difference(name, old, new)} (device)."
            )
    kept = [o for o in current["objectives"] if o["device"] is None or o["device"] in old]
    if stored.get("objectives") != kept:
        raise RunFolderError(
            f"run folder {folder.path} must be of the same run, but its objectives were "
            f"{_names(stored.get('objectives', []))} and are now {_names(current['objectives'])}."
        )


def _names(objectives: Sequence[Mapping[str, Any]]) -> list[str]:
    return [o["metric"] + (f"@{o['device']}" if o.get("device") else "") for o in objectives]


def _difference(key: str, stored: Mapping[str, Any], current: Mapping[str, Any]) -> str:
    """Returns `a.b was 1 and is now 2` for the first differing leaf."""
    old, new = stored.get(key), current.get(key)
    if isinstance(old, dict) and isinstance(new, dict):
        for part in sorted({*old, *new}, key=str):
            if old.get(part) != new.get(part):
                return f"{key}.{_difference(part, old, new)}"
    return f"{key} was {_short(old)} and is now {_short(new)}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _weights(
    plan: Plan, supernet: Supernet, folder: RunFolder, observer: Observer, *, pretrained: bool
) -> dict[str, NDArray[Any]] | None:
    """Returns the full weights, trained if need be and stored once; None where no weights are needed."""
    if not plan.measured and not plan.needs_network:
        return None
    if not pretrained and plan.needs_network:
        from hwsearch.training.supernet_training import train

        assert plan.dataset is not None
        if folder.supernet.is_file():
            build.load_weights(supernet, folder.supernet)
        else:
            observer.phase("train")
            train(
                supernet,
                plan.dataset,
                plan.training(),
                checkpoint=folder.training / "checkpoint.safetensors",
                progress=observer.training,
            )
            write_atomic(folder.supernet, encode(supernet.tensors()))
    return supernet.to_arrays()


def _export(
    plan: Plan, supernet: Supernet, members: Sequence[Member], folder: RunFolder, observer: Observer
) -> list[str]:
    """Exports the configured nets of the front; a net that fails its check is named and not exported."""
    nets = plan.config.export.nets
    usable = [m for m in members if m.error is None and "weights" in m.artifacts]
    chosen = usable if nets == "all" else spread(usable, nets, plan.objectives[0])
    exporter = OnnxExporter()
    done = []
    for member in chosen:
        try:
            export_member(
                member, supernet, folder, exporter=exporter, dataset=plan.dataset, command=["hwsearch", *sys.argv[1:]]
            )
            done.append(member.key)
        except DeviceError as error:
            observer.note(f"{member.key} was not exported: {error}")
    return done


def predictor_path(folder: RunFolder, objective: Objective) -> Path:
    """Returns where the predictor of an objective is stored."""
    return folder.predictors / f"{objective.name}.safetensors"


def _fit_predictors(plan: Plan, study: Study, folder: RunFolder) -> None:
    """Fits one predictor per objective that must be measured, on all finished trials, and stores it."""
    done = [t for t in study.trials if t.state == State.FINISHED]
    for objective in plan.objectives:
        rows = [t for t in done if objective.name in t.metrics]
        if objective.metric in COST_METRICS or len(rows) < MIN_PREDICTOR_ROWS:
            continue
        population = np.stack([t.row for t in rows])
        values = np.array([t.metrics[objective.name] for t in rows])
        report = cross_validate(
            lambda: Ridge(plan.space), population, values, unit=objective.unit, minimize=objective.sign > 0
        )
        predictor = Ridge(plan.space).fit(population, values)
        folder.predictors.mkdir(parents=True, exist_ok=True)
        card = Card(
            metric=objective.metric,
            unit=objective.unit,
            device=objective.device,
            training_digest=training_digest(population, values),
            n_rows=len(rows),
            report=report.to_dict(),
        )
        save(predictor, predictor_path(folder, objective), card=card)
