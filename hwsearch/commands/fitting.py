"""Fitting predictors on the trials of a run, so that architectures nobody tried can be asked about."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from hwsearch.build import Plan
from hwsearch.commands.network import network_of
from hwsearch.objectives import COST_METRICS, Objective
from hwsearch.results import State
from hwsearch.runfolder import RunFolder, write_atomic
from hwsearch.service.loading import NETWORK
from hwsearch.study import Study
from predictors.base import LayerFunction, Sources
from predictors.files import Card, load, save, training_digest
from predictors.training_range import NOTE, TrainingRange

MIN_ROWS = 10
FIT_SECONDS = 4.0
"""For each predictor, by `Auto`'s own estimate: a run's last step should not keep anyone waiting."""


def predictor_path(folder: RunFolder, objective: Objective) -> Path:
    """Returns where the predictor of an objective is stored."""
    return folder.predictors / f"{objective.name}.safetensors"


def held_out_path(folder: RunFolder, objective: Objective) -> Path:
    """Returns where the held-out predictions of the trials are stored, for reports."""
    return folder.predictors / f"{objective.name}.held-out.json"


def fit_predictors(plan: Plan, study: Study, folder: RunFolder) -> None:
    """Fits one predictor per objective or limit that must be measured, on all finished trials, and stores it.

    It is `Auto` with the layer costs of the run's networks, at the batch size of the device. Known standard errors of
    the values count. A predictor that was fitted on the same trials before stays.
    """
    done = [t for t in study.trials if t.state == State.FINISHED]
    for objective in {o.name: o for o in (*plan.objectives, *plan.limits)}.values():
        rows = [t for t in done if objective.name in t.metrics]
        if objective.metric in COST_METRICS or len(rows) < MIN_ROWS:
            continue
        population = np.stack([t.row for t in rows])
        values = np.array([t.metrics[objective.name] for t in rows])
        path, digest = predictor_path(folder, objective), training_digest(population, values)
        layers = _layers(plan)
        if _is_fitted(path, plan, digest, layers=layers):
            continue
        from predictors.auto import Auto  # scipy.stats takes a second to import
        from predictors.validation import report

        if np.ptp(values) == 0:
            continue  # nothing to learn: every trial has the same value
        stds = np.array([t.stds.get(objective.name, np.nan) for t in rows])
        batch = 1 if objective.device is None else plan.devices[objective.device].batch
        model = Auto(plan.space, layers=layers, batch=batch, seconds=FIT_SECONDS).fit(population, values, stds=stds)
        held_out = model.held_out()  # of nested cross-validation: no model or weight has seen the row
        quality = report(held_out, values, unit=objective.unit, minimize=objective.sign > 0, stds=stds)
        seen = TrainingRange.of(plan.space, population, stds=held_out.std)
        card = Card(
            metric=objective.metric,
            unit=objective.unit,
            device=objective.device,
            training_digest=digest,
            n_rows=len(rows),
            report=quality.to_dict(),
            notes={NOTE: seen.to_dict(), NETWORK: network_of(plan)},
        )
        folder.predictors.mkdir(parents=True, exist_ok=True)
        save(model, path, card=card)
        pairs = {"value": values.tolist(), "mean": held_out.mean.tolist(), "std": held_out.std.tolist()}
        write_atomic(held_out_path(folder, objective), json.dumps({"training_digest": digest, **pairs}).encode())


def _layers(plan: Plan) -> LayerFunction:
    return plan.supernet(meta=True).layers


def _is_fitted(path: Path, plan: Plan, digest: str, *, layers: LayerFunction) -> bool:
    try:
        return load(path, space=plan.space, sources=Sources(layers=layers)).card.training_digest == digest
    except ValueError:  # damaged, older, of another space, or of other layer costs: fitted anew
        return False
