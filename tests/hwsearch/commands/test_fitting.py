"""A run's predictors: what is fitted, on what, and when it is fitted anew."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from hwsearch import build
from hwsearch.build import Plan
from hwsearch.commands.fitting import fit_predictors, predictor_path
from hwsearch.results import State
from hwsearch.runfolder import RunFolder
from hwsearch.study import Study
from predictors.auto import Auto
from predictors.base import Sources
from predictors.files import load
from predictors.training_range import TrainingRange
from tests.hwsearch.runs import digits


def study_of(plan: Plan, rows: np.ndarray, values: np.ndarray, name: str) -> Study:
    """What `fit_predictors` reads of a study."""
    trials = [
        SimpleNamespace(row=row, metrics={name: float(v)}, stds={name: 0.01}, state=State.FINISHED)
        for row, v in zip(rows, values, strict=True)
    ]
    return cast(Study, SimpleNamespace(trials=trials))


@pytest.fixture(scope="module")
def plan() -> Plan:
    raw: dict[str, Any] = digits(objectives=["latency_ms@cpu", "macs"], training=None)
    return build.load_raw(raw, source="c.yaml")


def test_what_is_measured_gets_a_predictor_with_layer_costs(plan: Plan, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    rng = np.random.default_rng(0)
    rows = rng.permutation(np.unique(plan.space.sample(60, rng), axis=0))
    values = plan.supernet(meta=True).costs(rows).macs / 1e4 + 1.0
    study = study_of(plan, rows[:20], values[:20], "latency_ms@cpu")
    fit_predictors(plan, study, folder)
    path = predictor_path(folder, plan.objectives[0])
    assert [p.name for p in folder.predictors.glob("*.safetensors")] == [path.name]  # none of macs, which is exact
    loaded = load(path, sources=Sources(layers=plan.supernet(meta=True).layers))
    assert isinstance(loaded.predictor, Auto) and any("costs" in name for name in loaded.predictor.names_)
    assert loaded.card.n_rows == 20 and loaded.card.report["n"] == 20 and loaded.card.unit == "ms"
    assert loaded.card.report["rmse_noise"] == pytest.approx(0.01)
    assert TrainingRange.from_notes(plan.space, loaded.card.notes) is not None
    answer = loaded.predictor.predict(rows[20:])
    assert np.mean(np.abs(answer.mean / values[20:] - 1)) < 0.05

    before = path.stat().st_mtime_ns
    fit_predictors(plan, study, folder)
    assert path.stat().st_mtime_ns == before  # same trials, same predictor
    path.write_bytes(b"damaged")
    fit_predictors(plan, study, folder)
    assert load(path, sources=Sources(layers=plan.supernet(meta=True).layers)).card.n_rows == 20


def test_too_few_or_equal_values_give_no_predictor(plan: Plan, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    rows = np.unique(plan.space.sample(60, np.random.default_rng(0)), axis=0)
    fit_predictors(plan, study_of(plan, rows[:9], np.arange(9.0), "latency_ms@cpu"), folder)
    fit_predictors(plan, study_of(plan, rows[:12], np.ones(12), "latency_ms@cpu"), folder)
    assert not predictor_path(folder, plan.objectives[0]).exists()
