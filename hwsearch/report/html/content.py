"""What a report shows, as plain data: trials, front, curves, predictors, effects, layers, stability."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwsearch.objectives import Objective
from hwsearch.pareto import Box
from hwsearch.report.html.series import band, checkpoints, effects, growth, random_searches
from hwsearch.results import State
from hwsearch.study import Study, Trial
from search_spaces.layers import WEIGHTED, Size
from search_spaces.space import Population
from search_spaces.supernet import Supernet

POOL = 4000
"""Random architectures that are predicted at most for the band of random searches."""
NETS_WITH_LAYERS = 120
"""Front nets whose layers are shown; more would not be looked at, and cost megabytes."""
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""A genotype is one character per gene; larger choice indices (there are none today) would be `?`."""

Losses = Callable[[Population], np.ndarray[Any, np.dtype[np.float64]]]
"""Population (n, g) -> losses (n, m), NaN in rows that pass a limit."""


@dataclass(frozen=True)
class Sources:
    """What a report is made of, besides the study.

    Args:
        run: the folder as the user types it, for commands.
        front: content of front.json; empty where there is none yet.
        environment: content of environment.json.
        config: the resolved configuration, as text.
        predictors: one per fitted metric: name, unit, model, report, held_out.
        supernet: for layers of the front's nets; None when it cannot be made.
        predicted: losses of any architecture, by exact costs and the run's predictors; None where one is missing.
        baselines: losses (n, m) of runs to compare with, in the order of their trials.
        exported: keys of nets in models/.
    """

    run: str
    front: Mapping[str, Any]
    environment: Mapping[str, Any]
    config: str
    predictors: Sequence[Mapping[str, Any]] = ()
    supernet: Supernet | None = None
    predicted: Losses | None = None
    baselines: Sequence[np.ndarray[Any, np.dtype[np.float64]]] = ()
    exported: frozenset[str] = frozenset()


def content(study: Study, sources: Sources) -> dict[str, Any]:
    """Returns everything that the page shows, JSON-able, numbers at six digits, whole ones whole."""
    trials = study.trials
    members = list(sources.front.get("members", ()))
    names = list(dict.fromkeys(o.name for o in (*study.objectives, *study.limits)))
    devices = list(dict.fromkeys(o.device for o in study.objectives if o.device is not None))
    return {
        "name": study.name,
        "run": sources.run,
        "objectives": [_objective(o, study.limits) for o in study.objectives],
        "metrics": names,
        "devices": devices,
        "genes": [{"name": g.name, "choices": list(g.choices)} for g in study.space.genes],
        "space_size": str(study.space.size()),
        "trials": _trials(study, names),
        "n_failed": sum(t.state == State.FAILED for t in trials),
        "failures": _failures(trials),
        "members": _members(members, sources),
        "fronts": dict(sources.front.get("fronts", {})),
        "hypervolume": _hypervolume(study, sources),
        "predictors": [_predictor(p) for p in sources.predictors],
        "effects": _effects(study),
        "stability": {device: found for device in study.devices if (found := _stability(trials, device))},
        "environment": dict(sources.environment),
        "config": sources.config,
    }


def _objective(objective: Objective, limits: Iterable[Objective]) -> dict[str, Any]:
    limit = next((x.limit for x in limits if x.name == objective.name), None)
    return {
        "name": objective.name,
        "device": objective.device,
        "unit": objective.unit,
        "sign": objective.sign,
        "limit": limit,
    }


def _short(value: float | None) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return int(value) if value == int(value) else float(f"{value:.6g}")


def _trials(study: Study, names: Sequence[str]) -> dict[str, Any]:
    rows = np.array([t.row for t in study.trials], dtype=np.uint8).reshape(-1, study.space.n_genes)
    active = study.space.active(rows)
    return {
        "index": [t.index for t in study.trials],
        "key": [t.key for t in study.trials],
        "state": [int(t.state) for t in study.trials],
        "genotype": [
            "".join((DIGITS[c] if c < len(DIGITS) else "?") if on else "." for c, on in zip(t.row, mask, strict=True))
            for t, mask in zip(study.trials, active, strict=True)
        ],
        "values": {name: [_short(t.metrics.get(name)) for t in study.trials] for name in names},
        "stds": {name: [_short(t.stds.get(name)) for t in study.trials] for name in names},
        "seconds": _short(sum(t.seconds for t in study.trials)),
    }


def _failures(trials: Sequence[Trial]) -> list[list[Any]]:
    """Returns [reason, how often], most frequent first."""
    counts: dict[str, int] = {}
    for trial in trials:
        for reason in {trial.error, *trial.refused.values()} - {None}:
            counts[str(reason)] = counts.get(str(reason), 0) + 1
    return [[reason, n] for reason, n in sorted(counts.items(), key=lambda item: -item[1])][:10]


def _members(members: Sequence[Mapping[str, Any]], sources: Sources) -> list[dict[str, Any]]:
    step = max(1, math.ceil(len(members) / NETS_WITH_LAYERS))
    found = []
    for i, member in enumerate(members):
        shown = {
            "key": member["key"],
            "index": member["index"],
            "architecture": dict(member["architecture"]),
            "sparse": any(g.endswith("sparsity") and v != "dense" for g, v in member["architecture"].items()),
            "search": _all_short(member["metrics"]),
            "values": _all_short(member["validated"]),
            "stds": _all_short(member["validated_stds"]),
            "behind": bool(member["behind"]),
            "ties": list(member.get("ties", ())),
            "probability": _short(member.get("front_probability")),
            "passed": list(member["passed"]),
            "error": member["error"],
            "exported": member["key"] in sources.exported,
        }
        if sources.supernet is not None and i % step == 0:
            shown["layers"] = _layers(sources.supernet, member["architecture"])
        found.append(shown)
    return found


def _all_short(values: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: _short(value) for name, value in values.items()}


def _layers(supernet: Supernet, architecture: Mapping[str, Any]) -> list[list[Any]]:
    """Returns the layers with weights: [name, kind, inputs, outputs, kernel, weights, nonzeros, MACs, bytes]."""
    rows = []
    for layer in supernet.layer_costs(architecture).layers:
        weights = _one(layer.weights())
        if layer.kind in WEIGHTED and weights > 0:
            sizes = (layer.inputs, layer.outputs, layer.kernel)
            costs = (layer.nonzeros(), layer.macs(), layer.weight_bytes())
            rows.append([layer.name, layer.kind, *map(_one, sizes), weights, *map(_one, costs)])
    return rows


def _one(size: Size) -> int:
    return int(np.ravel(size)[0])


def _hypervolume(study: Study, sources: Sources) -> dict[str, Any] | None:
    history = study.history()
    losses = history.losses.copy()
    losses[~history.feasible] = math.nan
    known = losses[history.feasible]
    if len(known) == 0:
        return None
    n = len(losses)
    pool, kind = None, None
    if sources.baselines:
        searches, kind = [np.asarray(b) for b in sources.baselines], "runs"
        length = min(n, *(len(s) for s in searches))
    elif sources.predicted is not None:
        rows = study.space.sample(min(POOL, 4 * n + 160), np.random.default_rng([study.space.n_genes, n]))
        pool, kind = sources.predicted(rows), "predicted"
        # Four times as many as a search takes: otherwise all searches would end with the same architectures.
        length = min(n, len(pool) // 4)
        searches = random_searches(pool, length, seed=0)
    shown = np.concatenate([known, *([pool] if pool is not None else []), *sources.baselines])
    box = Box.of(shown[~np.isnan(shown).any(axis=1)])
    at = checkpoints(n)
    curve: dict[str, Any] = {"at": at.tolist(), "found": [_short(v) for v in growth(losses, box, at)], "kind": kind}
    if kind is not None:
        at = checkpoints(length)
        low, middle, high = band(searches, box, at)
        curve["random"] = {
            "at": at.tolist(),
            **{k: [_short(v) for v in x] for k, x in (("low", low), ("middle", middle), ("high", high))},
            "n_searches": len(searches),
        }
    if pool is not None and sources.predicted is not None:
        # The band has no measurement noise, which flatters nobody; so the run is also shown as predicted.
        alike = sources.predicted(np.stack([t.row for t in study.trials]))
        alike[~history.feasible] = math.nan
        curve["alike"] = [_short(v) for v in growth(alike, box, checkpoints(n))]
    return curve


def _predictor(source: Mapping[str, Any]) -> dict[str, Any]:
    held = source.get("held_out")
    return {
        **source,
        "held_out": None if held is None else {k: [_short(v) for v in held[k]] for k in ("value", "mean", "std")},
    }


def _effects(study: Study) -> dict[str, Any]:
    found = {}
    for objective in study.objectives:
        known = [t for t in study.trials if t.state == State.FINISHED and objective.name in t.metrics]
        if not known:
            continue
        values = np.array([t.metrics[objective.name] for t in known])
        answer = effects(study.space, np.stack([t.row for t in known]), values)
        if answer is not None:
            found[objective.name] = {
                "shares": _all_short(answer.shares),
                "r2": _short(answer.r2),
                "effects": [[e.gene, e.choice, _short(e.mean), _short(e.half_width), e.n] for e in answer.effects],
            }
    return found


def _stability(trials: Sequence[Trial], device: str) -> dict[str, Any] | None:
    """Returns how steady a device's host was: reference net against the first, spread of each latency."""
    index, drift, spread = [], [], []
    for trial in trials:
        measured = trial.attributes.get(f"measured@{device}", {}).get("latency_ms")
        value, std = (x.get(f"latency_ms@{device}") for x in (trial.metrics, trial.stds))
        if not measured or not value:
            continue
        environment = measured.get("environment", {})
        reference, frozen = environment.get("reference_ms"), environment.get("card_reference_ms")
        index.append(trial.index)
        drift.append(_short(100 * (reference / frozen - 1)) if reference and frozen else None)
        spread.append(_short(100 * std / value) if std is not None else None)
    if not index:
        return None
    return {"index": index, "drift": drift, "spread": spread}
