"""`hwsearch report`: the record of a run as one HTML file, and its figures for papers."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwsearch.build import Plan
from hwsearch.commands.fitting import held_out_path, predictor_path
from hwsearch.commands.query import run_plan
from hwsearch.errors import UserError
from hwsearch.objectives import COST_METRICS, Objective
from hwsearch.report.figures import figures
from hwsearch.report.html.content import Losses, Sources, content
from hwsearch.report.html.page import page
from hwsearch.runfolder import RunFolder, write_atomic
from hwsearch.study import Study, readable_storage
from predictors.base import Predictor
from predictors.base import Sources as PredictorSources
from predictors.files import load as load_predictor
from predictors.files import read_card
from search_spaces.space import Population
from search_spaces.supernet import Supernet


def report(
    run: Path, *, out: Path | None = None, figures_to: Path | None = None, baselines: Sequence[Path] = ()
) -> dict[str, Any]:
    """Writes the report of a run, also of one that is going on, and returns what was written.

    Args:
        run: its folder.
        out: file to write; `report.html` in the folder by default.
        figures_to: folder for every figure as PNG and SVG; none by default.
        baselines: folders of runs with the same objectives, such as random searches, for the band.

    Raises:
        UserError: no run there, or a baseline with other objectives.
    """
    plan, folder = run_plan(run)
    study = open_study(plan, folder)
    others = [_baseline(path, study) for path in baselines]
    shown = collect(plan, study, folder, baselines=others)
    target = out or folder.report
    write_atomic(target, _page(shown, folder))
    written = [str(target)]
    for name, picture in figures(shown).items() if figures_to is not None else ():
        assert figures_to is not None
        write_atomic(figures_to / name, picture)
        written.append(str(figures_to / name))
    return {"report": str(target), "files": written, "n_trials": len(study.trials)}


def write_report(plan: Plan, study: Study, folder: RunFolder) -> None:
    """Writes `report.html` of a run whose study is open."""
    write_atomic(folder.report, _page(collect(plan, study, folder), folder))


def _page(shown: dict[str, Any], folder: RunFolder) -> bytes:
    command = f"hwsearch run {shlex.quote(str(folder.config))} --run-dir {shlex.quote(str(folder.path))}"
    return page(shown, command=command, written=time.strftime("%Y-%m-%d %H:%M"))


def open_study(plan: Plan, folder: RunFolder) -> Study:
    """Returns the record of a run, read-only: the run may be going on meanwhile.

    Raises:
        UserError: nothing is recorded yet.
    """
    if plan.config.storage is None and not folder.journal.is_file():
        raise UserError(f"{folder.path} must hold recorded trials, but the run has not come that far.")
    return Study(
        plan.config.name,
        plan.space,
        objectives=plan.objectives,
        limits=plan.limits,
        devices=plan.measured,
        admitted=plan.admitted,
        storage=readable_storage(plan.config.storage, folder.journal),
        read_only=True,
    )


def collect(
    plan: Plan, study: Study, folder: RunFolder, *, baselines: Sequence[NDArray[np.float64]] = ()
) -> dict[str, Any]:
    """Returns all that a report shows."""
    supernet = plan.supernet(meta=True)
    tracked = {o.name: o for o in (*plan.objectives, *plan.limits)}
    sources = Sources(
        run=str(folder.path),
        front=_read(folder.front_json),
        environment=_read(folder.environment),
        config=folder.config.read_text(),
        predictors=[found for o in tracked.values() if (found := _quality(folder, o)) is not None],
        supernet=supernet,
        predicted=None if baselines else predicted_losses(plan, folder, supernet),
        baselines=baselines,
        exported=frozenset(path.name for path in folder.models.glob("*") if (path / "card.json").is_file()),
    )
    return content(study, sources)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _quality(folder: RunFolder, objective: Objective) -> dict[str, Any] | None:
    """Returns what is known of the predictor of an objective; None where there is none, or it is damaged."""
    path = predictor_path(folder, objective)
    try:
        card = read_card(path)
    except ValueError:
        return None
    held = _read(held_out_path(folder, objective))
    kept = held if held.get("training_digest") == card.training_digest else None
    return {
        "name": objective.name,
        "unit": objective.unit,
        "model": "auto",
        "report": {key: value for key, value in card.report.items() if key != "regret"},
        "held_out": kept,
    }


def predicted_losses(plan: Plan, folder: RunFolder, supernet: Supernet) -> Losses | None:
    """Returns losses (n, m) of any architectures by exact costs and the run's predictors; None where one is missing."""
    tracked = {o.name: o for o in (*plan.objectives, *plan.limits)}
    models: dict[str, Predictor] = {}
    for name, objective in tracked.items():
        if objective.metric not in COST_METRICS:
            try:
                path = predictor_path(folder, objective)
                models[name] = load_predictor(
                    path, space=plan.space, sources=PredictorSources(layers=supernet.layers)
                ).predictor
            except ValueError:
                return None

    def predicted(rows: Population) -> NDArray[np.float64]:
        costs = supernet.costs(rows)
        values = {
            name: models[name].predict(rows).mean if name in models else getattr(costs, o.metric).astype(np.float64)
            for name, o in tracked.items()
        }
        losses = np.stack([o.sign * values[o.name] for o in plan.objectives], axis=1)
        for limit in plan.limits:
            assert limit.limit is not None
            losses[limit.sign * (values[limit.name] - limit.limit) > 0] = np.nan
        return losses

    return predicted


def _baseline(path: Path, study: Study) -> NDArray[np.float64]:
    """Returns the losses (n, m) of another run in the order of its trials, NaN where a trial failed or passes a limit.

    Raises:
        UserError: it has other objectives.
    """
    plan, folder = run_plan(path)
    names, wanted = [o.name for o in plan.objectives], [o.name for o in study.objectives]
    if names != wanted:
        raise UserError(f"--baseline must be a run with the objectives {wanted}, but {path} has {names}.")
    history = open_study(plan, folder).history()
    losses = np.array(history.losses)
    losses[~history.feasible] = np.nan
    return losses
