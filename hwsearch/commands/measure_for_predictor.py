"""`hwsearch measure-for-predictor`: measures what tells a predictor most, until it is good enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hwsearch import build
from hwsearch.build import registry
from hwsearch.commands.fit import check_out, fitted, labelled, store, unit_of
from hwsearch.commands.measurement_log import Measured, MeasurementLog
from hwsearch.commands.query import device_spec
from hwsearch.commands.recipe import Recipe, own_held_out, recipe
from hwsearch.commands.space_source import SpaceSource, open_space
from hwsearch.devices.base import Device, DeviceSpec
from hwsearch.distribution.jobs import EvaluateJob, MeasureJob, MeasureResult
from hwsearch.distribution.workers import DeviceLane, NetworkWorker
from hwsearch.errors import DeviceError, NoResultError, UserError
from hwsearch.objectives import MAXIMISED
from hwsearch.report.fit_plot import fit_png
from hwsearch.runfolder import RunLock, write_atomic, write_json
from predictors.active import choose_next
from predictors.base import FloatArray, Target
from predictors.validation import cross_predict
from search_spaces.space import Population

FIRST = 12
"""Measurements before the first predictor; all of them fill space."""
GROUP = 4
"""Architectures measured side by side; those of one group are lost when it is killed."""
ALL_FAILED = 8
"""Failures, without one success, after which it is the device and not the networks."""


@dataclass(frozen=True)
class Progress:
    """How far the loop is. `error` and `error_std`: MAPE in percent and its standard error; None until there is one."""

    tried: int
    measured: int
    budget: int
    error: float | None
    error_std: float | None


def measure_for_predictor(
    config: str,
    *,
    device: str,
    target_error: float,
    budget: int,
    out: Path,
    metric: str = "latency_ms",
    model: str = "auto",
    log: bool = False,
    from_devices: Sequence[str] = (),
    seed: int = 0,
    figure: Path | None = None,
    observe: Callable[[Progress], None] = lambda _: None,
) -> dict[str, Any]:
    """Measures architectures on a live device, chosen one group after another, and writes a predictor of them.

    What is measured first fills the space; later ones are those whose values say most about all others'. Every
    measurement is stored in `<out without suffix>.measurements/` at once: after any kill the same call continues.

    Args:
        config: configuration, folder of a run or family whose networks are measured.
        device: of the configuration, YAML file of a device, or name of a runtime.
        target_error: mean absolute error in percent that ends it: cross-validated, one standard error included.
        budget: architectures to try at most, those of earlier calls included.
        out: file of the predictor; its report is written beside it as `.json`.
        metric: out of what the device measures.
        model: name out of `registry.PREDICTORS`.
        log: fits the logarithm.
        from_devices: see `recipe`.
        seed: of the choice.
        figure: PNG to write.
        observe: is told after every group.

    Raises:
        UserError: anything wrong with the arguments; nothing is measured then.
        DeviceError: the device does not come up, or none of the first networks can be measured.
        NoResultError: too few networks could be measured.
    """
    check_out(out)
    if not 0 < target_error < math.inf:
        raise UserError(f"--target-error must be a positive percentage, but got {target_error}.")
    if budget < 2:
        raise UserError(f"--budget must be at least 2, but got {budget}.")
    if seed < 0:
        raise UserError(f"--seed must be at least 0, but got {seed}.")
    source = open_space(config)
    if source.plan is None:
        raise UserError(f"only networks can be measured, but {config} holds bare genes: give a configuration.")
    spec = device_spec(device, source.plan)
    kind: type[Device] = registry.named("devices", spec.runtime, f"device {spec.name}: runtime")
    metrics = kind.measures(spec)
    if metric not in metrics:
        raise UserError(f"--metric must be one of {list(metrics)} that {spec.name} measures, but got {metric!r}.")
    transform: Target = "log" if log else "raw"
    how = recipe(source, target=metric, model=model, transform=transform, batch=spec.batch, from_devices=from_devices)
    folder = out.with_suffix(".measurements")
    lane = _Lane(source, spec, kind)
    with RunLock(folder):
        store_ = MeasurementLog(folder, source.space, metrics=metrics)
        card = store_.open({"space": source.space.fingerprint, **lane.identity()})
        lane.reference_ms = card.get("reference_ms", spec.reference_ms)
        budget = min(budget, source.space.size())
        checked: tuple[float, float] | None = None
        due = FIRST
        while True:
            known = store_.read(metric)
            n = len(known.rows)
            if n >= min(due, budget) and n >= 4:
                checked = cross_validated(how, known)
                due = n + max(GROUP, n // 4)
            observe(Progress(len(known.tried), n, budget, *(checked or (None, None))))
            if checked is not None and sum(checked) <= target_error:
                ended = "target"
                break
            if len(known.tried) >= budget:
                ended = "budget"
                break
            if n == 0 and len(known.tried) >= ALL_FAILED:
                raise DeviceError(f"device {spec.name} must measure some network, but none of {ALL_FAILED}: {lane.why}")
            rows = _next(how, known, min(GROUP, budget - len(known.tried)), seed=seed)
            for row, result in zip(rows, lane.measure(rows), strict=True):
                store_.add(row, result, run=known.n_runs)
            if lane.reference_ms is not None and card.get("reference_ms") is None:
                card = store_.freeze(card, lane.reference_ms)
        unit = unit_of(metric)
        if len(known.rows) < 2:
            raise NoResultError(f"a predictor needs 2 measured networks, but only {len(known.rows)} could be measured.")
        try:
            found = fitted(
                how,
                known.rows,
                known.values,
                stds=known.stds,
                unit=unit,
                minimize=metric not in MAXIMISED,
                curve=True,
                runs=known.runs,
            )
        except ValueError as error:
            raise NoResultError(f"no predictor can be fitted: {error}") from error
        store(found, how, out, target=metric, unit=unit, device=spec.name, fingerprint=lane.device.fingerprint())
    answer = {
        "file": str(out),
        "measurements": str(store_.table),
        "metric": metric,
        "device": spec.name,
        "unit": unit,
        "space": source.space.fingerprint,
        "ended": ended,
        "tried": len(known.tried),
        "unlabelled": len(known.tried) - len(known.rows),
        "target_error": target_error,
        "error": None if checked is None else checked[0],
        "error_std": None if checked is None else checked[1],
        **found.to_dict(),
    }
    write_json(out.with_suffix(".json"), answer)
    if figure is not None:
        write_atomic(figure, fit_png(found.to_dict(), found.held_out, found.values, label=labelled(metric, unit)))
    return answer


def cross_validated(how: Recipe, known: Measured) -> tuple[float, float]:
    """Returns the mean absolute error of held-out rows and its standard error, both in percent of the values.

    Raises:
        NoResultError: the values cannot be learned from (all alike, or 0).
    """
    try:
        predictor = how.make().fit(known.rows, known.values, stds=known.stds)
        held = own_held_out(predictor) or cross_predict(how.make, known.rows, known.values, k=8, stds=known.stds)
    except ValueError as error:
        raise NoResultError(f"no predictor can be fitted: {error}") from error
    if (known.values == 0).any():
        raise NoResultError("an error in percent needs values other than 0, but one of them is 0.")
    errors: FloatArray = 100 * np.abs(held.mean - known.values) / np.abs(known.values)
    return float(errors.mean()), float(errors.std(ddof=1) / math.sqrt(len(errors)))


def _next(how: Recipe, known: Measured, count: int, *, seed: int) -> Population:
    """Returns what to measure next: the same for the same measurements."""
    rng = np.random.default_rng([seed, len(known.tried)])
    space = how.source.space
    pool = space.enumerate() if space.size() <= 2000 else None
    return choose_next(space, known.tried, count, embed=how.embed, rng=rng, pool=pool)


class _Lane:
    """Exports networks with their initial weights, of which costs do not depend, and measures them."""

    def __init__(self, source: SpaceSource, spec: DeviceSpec, kind: type[Device]) -> None:
        plan = source.plan
        assert plan is not None
        formats = kind.opens(spec)
        searched = plan.precisions or spec.precisions[:1]
        if not set(searched) <= set(spec.precisions):
            raise UserError(
                f"device {spec.name} must admit every precision of the space ({', '.join(searched)}), "
                f"but admits {', '.join(spec.precisions)}."
            )
        exporter = registry.named("exporters", formats[0], "exporter")() if formats else None
        supernet = plan.supernet(meta=exporter is None)
        if exporter is not None:
            build.pretrained(plan, supernet)
        self.spec, self.device = spec, kind(spec)
        self.worker = NetworkWorker(
            supernet,
            None,
            exporters={spec.name: exporter},
            admitted={spec.name: searched},
            engine_of=registry.engine_of,
            has_weights=False,
            precision=spec.precisions[0],
        )
        self.lane = DeviceLane(self.device)
        self.reference_ms: float | None = spec.reference_ms
        self.why = ""

    def identity(self) -> dict[str, Any]:
        """Returns what measurements must share to be of one predictor."""
        spec = self.spec.model_dump(mode="json", exclude={"reference_ms"})
        return {"device": spec, "fingerprint": dict(self.device.fingerprint())}

    def measure(self, rows: Population) -> list[MeasureResult]:
        """Returns metric -> measurement per row (k, g), or one line why there is none."""
        results: list[MeasureResult] = []
        artifacts = []
        for i, row in enumerate(rows):
            evaluation, made = self.worker.evaluate(EvaluateJob(i, row))
            results.append(evaluation.error or "")
            if evaluation.error is None:
                artifacts.append((i, made[self.spec.name]))
        if artifacts:
            indices, content = zip(*artifacts, strict=True)
            job = MeasureJob(self.spec.name, indices, content, reference_ms=self.reference_ms)
            for i, result in zip(indices, self.lane.measure(job), strict=True):
                results[i] = result
        self.reference_ms = self.device.reference_ms
        self.why = next((result for result in results if isinstance(result, str)), self.why)
        return results
