"""Predictors, trials and a run folder to serve in tests: small, made up, and with a condition between genes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hwsearch import build
from hwsearch.results import Evaluation, Measurement
from hwsearch.runfolder import RunFolder
from hwsearch.service.catalog import Catalog
from hwsearch.service.loading import load
from hwsearch.study import Study, open_storage
from predictors.files import Card, save
from predictors.ridge import Ridge
from predictors.training_range import NOTE, TrainingRange
from predictors.validation import cross_predict, report
from search_spaces.genes import Condition, Gene
from search_spaces.space import SearchSpace

SPACE = SearchSpace(
    [
        Gene("depth", (1, 2, 3)),
        Gene("first.kernel", (3, 5, 7)),
        Gene("second.kernel", (3, 5, 7), (Condition("depth", (2, 3)),)),
        Gene("third.kernel", (3, 5, 7), (Condition("depth", (3,)),)),
        Gene("act", ("relu", "swish")),
        Gene("se", (False, True)),
    ]
)
LEAST = {"depth": 1, "first.kernel": 3, "act": "relu", "se": False}


def latency(rows: np.ndarray, scale: float = 1.0) -> np.ndarray:
    return scale * (1.0 + rows[:, 0] + 0.3 * rows[:, 1:4].sum(axis=1) + 0.2 * rows[:, 4] + 0.1 * rows[:, 5])


def accuracy(rows: np.ndarray) -> np.ndarray:
    return 0.8 + 0.03 * rows[:, 0] + 0.01 * rows[:, 1:4].sum(axis=1) + 0.005 * rows[:, 5]


def write(path: Path, metric: str, device: str | None, unit: str, *, space: SearchSpace = SPACE, notes: bool = True):
    """Writes a ridge that was fitted on 40 rows without the choice `7` of `first.kernel`."""
    rng = np.random.default_rng(len(path.name))
    rows = space.sample(120, rng)
    rows = rows[rows[:, 1] < 2][:40] if space is SPACE else rows[:40]
    values = accuracy(rows) if metric == "accuracy" else latency(rows, 1.0 if device == "cpu" else 5.0)
    values = values * (1 + 0.01 * rng.standard_normal(len(rows)))
    held_out = cross_predict(lambda: Ridge(space), rows, values)
    seen = TrainingRange.of(space, rows, stds=held_out.std)
    card = Card(
        metric=metric,
        unit=unit,
        device=device,
        n_rows=len(rows),
        report=report(held_out, values, unit=unit, minimize=metric != "accuracy").to_dict(),
        notes={NOTE: seen.to_dict()} if notes else {},
    )
    save(Ridge(space).fit(rows, values), path, card=card)
    return path


def files(folder: Path) -> list[Path]:
    """Writes latency on two devices and accuracy."""
    return [
        write(folder / "cpu.safetensors", "latency_ms", "cpu", "ms"),
        write(folder / "phone.safetensors", "latency_ms", "phone", "ms"),
        write(folder / "accuracy.safetensors", "accuracy", None, "share"),
    ]


def plan_of(raw: Any, source: str) -> build.Plan:
    return build.load_raw(raw, source=source)


def catalog(folder: Path) -> Catalog:
    return load(files(folder), plan_of=plan_of)


RUN = {
    "name": "small",
    "supernet": {"family": "mlp", "params": {"hidden": [[16, 32, 64], [16, 32, 64]]}},
    "sparsity": {"per": "stage", "choices": ["dense", "unstructured-0.5"]},
    "data": {"name": "digits"},
    "training": {"epochs": 1},
    "objectives": ["accuracy", "latency_ms@cpu", "stored_bytes"],
    "devices": {"cpu": {"runtime": "onnxruntime", "threads": 1}},
    "search": {"engine": "random", "trials": 20},
}


def run_folder(path: Path) -> Path:
    """Writes a run of 12 trials (one of them failed) with predictors, as `hwsearch run` leaves it."""
    plan = build.load_raw(RUN, source="test")
    folder = RunFolder(path)
    folder.save_config(plan.config.to_dict())
    study = Study(
        plan.config.name,
        plan.space,
        objectives=plan.objectives,
        limits=plan.limits,
        devices=plan.measured,
        storage=open_storage(None, folder.journal),
    )
    rng = np.random.default_rng(0)
    rows = np.unique(plan.space.sample(40, rng), axis=0)
    rng.shuffle(rows)
    rows = rows[:12]
    bytes_ = plan.supernet(meta=True).costs(rows).stored_bytes
    size = rows[:, :2].sum(axis=1)
    for i, index in enumerate(study.start(rows)):
        if i == 11:
            study.record(index, Evaluation({}, 0.1, error="broke"))
            study.record_measurement(index, "cpu", "broke")
            continue
        study.record(index, Evaluation({"accuracy": 0.8 + 0.03 * size[i], "stored_bytes": float(bytes_[i])}, 0.1))
        study.record_measurement(index, "cpu", {"latency_ms": Measurement(1.0 + 0.5 * size[i], 0.01, "ms")})
    folder.predictors.mkdir()
    done = rows[:11]
    for name, metric, device, unit, values in (
        ("accuracy", "accuracy", None, "share", 0.8 + 0.03 * size[:11]),
        ("latency_ms@cpu", "latency_ms", "cpu", "ms", 1.0 + 0.5 * size[:11]),
    ):
        seen = TrainingRange.of(plan.space, done)
        card = Card(metric=metric, unit=unit, device=device, n_rows=11, notes={NOTE: seen.to_dict()})
        save(Ridge(plan.space).fit(done, values), folder.predictors / f"{name}.safetensors", card=card)
    return path
