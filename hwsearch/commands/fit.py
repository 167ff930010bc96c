"""`hwsearch fit`: a predictor from a table of measurements, and how good it is."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwsearch.commands.recipe import Recipe, own_held_out, parts, recipe
from hwsearch.commands.run_effects import RunEffects, can_widen, run_effects, widen
from hwsearch.commands.space_source import open_space
from hwsearch.errors import UserError
from hwsearch.importers.table import read_table
from hwsearch.objectives import DEVICE_METRICS, MAXIMISED, QUALITY_METRICS
from hwsearch.report.fit_plot import fit_png
from hwsearch.runfolder import write_atomic
from hwsearch.service.loading import NETWORK
from predictors.base import FloatArray, Prediction, Predictor, Target
from predictors.diagnosis import (
    CurvePoint,
    LabelNoise,
    StageResidual,
    label_noise,
    learning_curve,
    stage_residuals,
)
from predictors.files import Card, Scalar, save, training_digest
from predictors.training_range import NOTE, TrainingRange
from predictors.validation import Report, cross_predict, report
from search_spaces.space import Population

LEAST_TO_VALIDATE = 4
LEAST_REPEATS = 3
"""Labels beyond the first of their architecture before their scatter counts as the noise of every label."""


@dataclass(frozen=True)
class Fitted:
    """A predictor and its validation.

    Args:
        predictor: fitted on all rows.
        rows, values: (n, g), (n,) that it was fitted on; labels of one architecture are averaged.
        held_out: (n,) answers without each row; None with fewer than 4 architectures.
        report: of these; None without.
        noise: of the labels; None where no architecture has two.
        curve: errors by number of rows.
        stages: residuals by stage.
        parts: what the predictor is made of.
        n_labels: rows of the table.
        seconds: of the fit itself.
        runs: what labels of one measuring run share; None where that is not known.
    """

    predictor: Predictor
    rows: Population
    values: FloatArray
    held_out: Prediction | None
    report: Report | None
    noise: LabelNoise | None
    curve: tuple[CurvePoint, ...]
    stages: tuple[StageResidual, ...]
    parts: Mapping[str, float]
    n_labels: int
    seconds: float
    runs: RunEffects | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns everything but the predictor and its rows, JSON-able."""
        return {
            "model": self.predictor.kind,
            "parts": dict(self.parts),
            "n_rows": len(self.rows),
            "n_labels": self.n_labels,
            "fit_seconds": round(self.seconds, 3),
            "report": None if self.report is None else self.report.to_dict(),
            "noise": None if self.noise is None else asdict(self.noise),
            "curve": [asdict(point) for point in self.curve],
            "stages": [asdict(line) for line in self.stages],
            "runs": None
            if self.runs is None
            else {
                "n": self.runs.n_runs,
                "shared_percent": 100 * self.runs.shared_std,
                "own_percent": 100 * self.runs.own_std,
            },
        }


def of_labels(stds: FloatArray | None, noise: LabelNoise | None, n: int) -> FloatArray | None:
    """Returns the standard error of each label (n,): the given one, else what repeats say; None where neither does."""
    if noise is None or noise.labels - noise.architectures < LEAST_REPEATS:
        return stds
    return np.full(n, noise.std) if stds is None else np.where(np.isnan(stds), noise.std, stds)


def averaged(
    rows: Population, values: FloatArray, stds: FloatArray | None
) -> tuple[Population, FloatArray, FloatArray | None]:
    """Returns distinct rows in the order of their first label, with mean labels and the standard errors of these."""
    _, first, group = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    group = group.ravel()
    counts = np.bincount(group)
    order = np.argsort(first)
    means = np.bincount(group, weights=values) / counts
    errors = None if stds is None else (np.sqrt(np.bincount(group, weights=stds**2)) / counts)[order]
    return rows[first[order]], means[order], errors


def fitted(
    how: Recipe,
    rows: Population,
    values: FloatArray,
    *,
    stds: FloatArray | None = None,
    unit: str,
    minimize: bool = True,
    curve: bool = True,
    runs: NDArray[np.intp] | None = None,
) -> Fitted:
    """Returns a predictor of labelled rows with its validation.

    Where labels of one measuring run err together, what a run probably shares is taken off its labels, and deviations
    are those of a label in another session. Cross-validation sees one session only: two sessions are taken to differ as
    two runs of one do.

    Args:
        how: it is made.
        rows: (n, g), repeats allowed.
        values: (n,) finite.
        stds: (n,) their standard errors, NaN where unknown; repeats say what an unknown one is, and that a mean of
            k labels has a smaller one.
        unit: of the values.
        minimize: whether small values are the good ones.
        curve: whether to fit the learning curve, which takes about as long as the fit again.
        runs: (n,) number of the measuring run of each label; they do not count where an architecture has two labels.

    Raises:
        ValueError: fewer than two architectures, equal labels.
    """
    noise = label_noise(rows, values)
    n_labels = len(rows)
    rows, values, stds = averaged(rows, values, of_labels(stds, noise, n_labels))
    started = time.perf_counter()
    predictor = how.make().fit(rows, values, stds=stds)
    seconds = time.perf_counter() - started
    held, quality, effects = None, None, None
    if len(rows) >= LEAST_TO_VALIDATE:
        held = own_held_out(predictor) or cross_predict(how.make, rows, values, k=8, stds=stds)
        if runs is not None and len(runs) == len(rows) and can_widen(predictor) and (held.mean > 0).all():
            effects = run_effects((values - held.mean) / held.mean, runs)
        if effects is not None and effects.shared_std > 0:
            predictor, held = _for_another_session(how, rows, values, stds, effects)
        quality = report(held, values, unit=unit, minimize=minimize, stds=stds)
    return Fitted(
        predictor,
        rows,
        values,
        held,
        quality,
        noise,
        tuple(learning_curve(how.make, rows, values, stds=stds)) if curve else (),
        () if held is None else tuple(stage_residuals(how.source.space, rows, held.mean, values)),
        parts(predictor),
        n_labels,
        seconds,
        effects,
    )


def _for_another_session(
    how: Recipe, rows: Population, values: FloatArray, stds: FloatArray | None, effects: RunEffects
) -> tuple[Predictor, Prediction]:
    """Returns a predictor of labels without their runs' shares, and its held-out answers, deviations widened."""
    own = values / (1 + effects.shift)
    predictor = how.make().fit(rows, own, stds=stds)
    held = own_held_out(predictor) or cross_predict(how.make, rows, own, k=8, stds=stds)
    seen = float(np.mean((own / held.mean - 1) ** 2))  # what deviations were calibrated on
    whole = float(np.mean((values / held.mean - 1) ** 2)) + 2 * effects.shared_std**2
    factor = float(np.sqrt(whole / seen)) if seen > 0 else 1.0
    widen(predictor, factor)
    return predictor, Prediction(held.mean, held.std * factor)


def store(
    found: Fitted,
    how: Recipe,
    out: Path,
    *,
    target: str,
    unit: str,
    device: str | None = None,
    fingerprint: Mapping[str, Scalar] | None = None,
) -> None:
    """Writes the predictor to `out`; its card says what `found` does, and which networks its layer costs are of."""
    held = found.held_out
    notes: dict[str, Any] = {
        NOTE: TrainingRange.of(how.source.space, found.rows, stds=None if held is None else held.std).to_dict(),
        "validation": {key: value for key, value in found.to_dict().items() if key != "report"},
    }
    network = how.source.network()
    if network is not None:
        notes[NETWORK] = network
    card = Card(
        metric=target,
        unit=unit,
        device=device,
        device_fingerprint=dict(fingerprint or {}),
        training_digest=training_digest(found.rows, found.values),
        n_rows=len(found.rows),
        report={} if found.report is None else found.report.to_dict(),
        notes=notes,
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        save(found.predictor, out, card=card)
    except OSError as error:
        raise UserError(f"--out must be a file that can be written, but {out}: {error.strerror or error}.") from error


def check_out(out: Path) -> None:
    """Raises UserError where no predictor could be written; before hours of work, not after."""
    if out.is_dir():
        raise UserError(f"--out must be a file, but {out} is a folder.")
    if out.suffix != ".safetensors":
        raise UserError(f"--out must end in .safetensors, but got {out.name!r}.")


def unit_of(target: str) -> str:
    """Returns the unit of a known metric, else nothing."""
    return {**DEVICE_METRICS, **QUALITY_METRICS}.get(target, "")


def fit(
    table: Path,
    *,
    space: str,
    target: str,
    out: Path,
    model: str = "auto",
    log: bool = False,
    rank: bool = False,
    zero_cost: Sequence[str] = (),
    device: str | None = None,
    unit: str | None = None,
    maximize: bool | None = None,
    batch: int = 1,
    from_devices: Sequence[str] = (),
    curve: bool = True,
    figure: Path | None = None,
) -> dict[str, Any]:
    """Fits a predictor to a table, writes it, and returns its validation report, JSON-able.

    Args:
        table: see `importers.table.read_table`.
        space: see `space_source.open_space`.
        target: column of the labels: the metric.
        out: file of the predictor.
        model: name out of `registry.PREDICTORS`.
        log: fits the logarithm of the labels.
        rank: fits their ranks: for labels whose order counts.
        zero_cost: scores of the untrained networks that are features, too; see `recipe`.
        batch: examples per measured call.
        from_devices: see `recipe`.
        device: whose numbers these are; None for what depends on none.
        unit: of the labels; by default that of the metric.
        maximize: whether large labels are the good ones, for the regret; by default as for the metric.
        curve: whether to fit the learning curve.
        figure: PNG to write.

    Raises:
        UserError or ValueError: anything wrong with the arguments or the table; nothing is written then.
    """
    check_out(out)
    if batch < 1:
        raise UserError(f"--batch must be at least 1, but got {batch}.")
    if log and rank:
        raise UserError("--log and --rank exclude one another: give one of them.")
    source = open_space(space)
    data = read_table(table, source.space, target=target)
    transform: Target = "log" if log else "rank" if rank else "raw"
    how = recipe(
        source,
        target=target,
        model=model,
        transform=transform,
        batch=batch,
        from_devices=from_devices,
        zero_cost=zero_cost,
    )
    unit = unit_of(target) if unit is None else unit
    minimize = target not in MAXIMISED if maximize is None else not maximize
    try:
        found = fitted(
            how,
            data.rows,
            data.values,
            stds=data.stds,
            unit=unit,
            minimize=minimize,
            curve=curve,
            runs=data.runs,
        )
    except ValueError as error:
        raise UserError(f"{table}: {error}") from error
    store(found, how, out, target=target, unit=unit, device=device)
    if figure is not None:
        write_atomic(figure, fit_png(found.to_dict(), found.held_out, found.values, label=labelled(target, unit)))
    return {
        "file": str(out),
        "metric": target,
        "device": device,
        "unit": unit,
        "space": source.space.fingerprint,
        "unlabelled": data.unlabelled,
        **found.to_dict(),
    }


def labelled(target: str, unit: str) -> str:
    """Returns a metric with its unit, for axes."""
    return f"{target} [{unit}]" if unit else target
