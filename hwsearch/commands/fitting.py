"""Fitting predictors on the trials of a run, so that architectures nobody tried can be asked about."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hwsearch.build import Plan
from hwsearch.objectives import COST_METRICS, Objective
from hwsearch.results import State
from hwsearch.runfolder import RunFolder
from hwsearch.study import Study
from predictors.files import Card, PredictorFileError, load, save, training_digest
from predictors.ridge import Ridge
from predictors.training_range import NOTE, TrainingRange

MIN_ROWS = 10


def predictor_path(folder: RunFolder, objective: Objective) -> Path:
    """Returns where the predictor of an objective is stored."""
    return folder.predictors / f"{objective.name}.safetensors"


def fit_predictors(plan: Plan, study: Study, folder: RunFolder) -> None:
    """Fits one predictor per objective or limit that must be measured, on all finished trials, and stores it.

    One that was fitted on the same trials before stays.
    """
    done = [t for t in study.trials if t.state == State.FINISHED]
    for objective in {o.name: o for o in (*plan.objectives, *plan.limits)}.values():
        rows = [t for t in done if objective.name in t.metrics]
        if objective.metric in COST_METRICS or len(rows) < MIN_ROWS:
            continue
        population = np.stack([t.row for t in rows])
        values = np.array([t.metrics[objective.name] for t in rows])
        path, digest = predictor_path(folder, objective), training_digest(population, values)
        if _is_fitted(path, plan, digest):
            continue
        from predictors.validation import cross_predict, report  # scipy.stats takes a second to import

        held_out = cross_predict(lambda: Ridge(plan.space), population, values)
        quality = report(held_out, values, unit=objective.unit, minimize=objective.sign > 0)
        seen = TrainingRange.of(plan.space, population, stds=held_out.std)
        card = Card(
            metric=objective.metric,
            unit=objective.unit,
            device=objective.device,
            training_digest=digest,
            n_rows=len(rows),
            report=quality.to_dict(),
            notes={NOTE: seen.to_dict()},
        )
        folder.predictors.mkdir(parents=True, exist_ok=True)
        save(Ridge(plan.space).fit(population, values), path, card=card)


def _is_fitted(path: Path, plan: Plan, digest: str) -> bool:
    try:
        return load(path, space=plan.space).card.training_digest == digest
    except PredictorFileError:
        return False
