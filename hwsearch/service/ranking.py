"""The best architectures under limits, from stored trials and from predictors; every answer says which it is from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hwsearch import pareto
from hwsearch.objectives import Direction, Objective
from hwsearch.service.catalog import Catalog, Entry, RequestError
from hwsearch.service.prediction import Answer, answers
from predictors.base import FloatArray
from search_spaces.populations import not_in, unique_rows
from search_spaces.space import Population

Source = Literal["trials", "predictors"]
ROUNDS = 6
PARENTS = 64


@dataclass(frozen=True)
class Query:
    """What is looked for.

    Args:
        prefer: best in this, by its direction.
        limits: that an answer keeps; their `limit` is set.
        sources: `trials` for measured answers, `predictors` for predicted ones.
        count: of answers, of each label at most.
        candidates: architectures that predictors are asked about at most.
        seed: of the candidates.
        level: of the intervals.
        cautious: predicted values count with the worse end of their interval instead of the mean.
    """

    prefer: Objective
    limits: tuple[Objective, ...] = ()
    sources: tuple[Source, ...] = ("trials", "predictors")
    count: int = 10
    candidates: int = 10_000
    seed: int = 0
    level: float = 0.9
    cautious: bool = False


def wanted(
    catalog: Catalog, metric: str, *, device: str | None = None, direction: Direction | None = None
) -> Objective:
    """Returns the objective that a metric means in a catalog. Raises RequestError for an unknown one."""
    name = catalog.resolve(metric, device)
    base, _, place = name.partition("@")
    return Objective(base, place or None, direction or catalog.direction(name), unit=catalog.units.get(name, ""))


def limited(
    catalog: Catalog,
    metric: str,
    *,
    device: str | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
) -> list[Objective]:
    """Returns one objective with a limit per given bound.

    Raises:
        RequestError: unknown metric, or no bound.
    """
    if at_least is None and at_most is None:
        raise RequestError(f"a limit must have min or max, but that of {metric[:60]!r} has neither.")
    plain = wanted(catalog, metric, device=device)
    bounds: list[tuple[Direction, float | None]] = [("maximize", at_least), ("minimize", at_most)]
    return [replace(plain, direction=way, limit=value) for way, value in bounds if value is not None]


def query(catalog: Catalog, asked: Query) -> list[dict[str, Any]]:
    """Returns answers, JSON-able: measured ones first, then predicted ones, each best first.

    An answer is `measured` when every value that it was chosen by was measured or is an exact cost.

    Raises:
        RequestError: no source can answer it.
    """
    names = tuple(dict.fromkeys([asked.prefer.name, *(o.name for o in asked.limits)]))
    found: list[dict[str, Any]] = []
    missing: list[str] = []
    measured = _measured(catalog, names)
    if "trials" in asked.sources:
        if len(catalog.trials):
            found += _from_trials(catalog, asked, names, measured)
        else:
            missing.append("no trials are stored here")
    if "predictors" in asked.sources:
        unknown = [n for n in names if n not in catalog.entries]
        if unknown:
            missing.append(f"there is no predictor of {unknown[0]}")
        else:
            found += _from_predictors(catalog, asked, names, measured)
    if len(missing) == len(asked.sources):
        raise RequestError(f"trials or predictors must be able to answer, but {' and '.join(missing)}.")
    return found


def _measured(catalog: Catalog, names: Sequence[str]) -> FloatArray:
    """Returns values (t, m) of names over the stored trials: measured or exact, NaN where neither."""
    trials = catalog.trials
    values = np.full((len(trials), len(names)), np.nan)
    if not len(trials):
        return values
    for j, name in enumerate(names):
        if name in trials.names:
            values[:, j] = trials.values[:, trials.names.index(name)]
        entry = catalog.entries.get(name)
        if entry is not None and entry.kind == "exact":
            values[:, j] = answers(catalog, trials.rows, [entry], level=0.5)[0].mean
    return values


def _order(asked: Query, names: Sequence[str], values: FloatArray) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Returns the order (n,), best first and limits before preference, of values (n, m); and which keep all limits."""
    columns = {name: j for j, name in enumerate(names)}
    loss = asked.prefer.sign * values[:, columns[asked.prefer.name]]
    kept = np.isfinite(loss)
    passed = np.zeros(len(values))
    if asked.limits:
        bounds = np.array([o.limit for o in asked.limits], dtype=np.float64)
        signs = np.array([o.sign for o in asked.limits])
        violations = signs * (values[:, [columns[o.name] for o in asked.limits]] - bounds)
        violations = np.where(np.isnan(violations), np.inf, violations)
        passed = pareto.total_violation(violations)
        kept &= passed == 0
    return np.lexsort((np.where(np.isnan(loss), np.inf, loss), passed)), kept


def _from_trials(catalog: Catalog, asked: Query, names: Sequence[str], measured: FloatArray) -> list[dict[str, Any]]:
    trials = catalog.trials
    order, kept = _order(asked, names, measured)
    chosen = [int(i) for i in order if kept[i]][: asked.count]
    found = []
    extra = [catalog.entries[n] for n in names if n in catalog.entries and n not in trials.names]
    said = answers(catalog, trials.rows[chosen], extra, level=asked.level) if chosen else []
    for position, i in enumerate(chosen):
        values: dict[str, Any] = {}
        for j, name in enumerate(trials.names):
            if np.isfinite(trials.values[i, j]):
                values[name] = {
                    "value": float(trials.values[i, j]),
                    "std": _number(trials.stds[i, j]),
                    "unit": catalog.units.get(name, ""),
                    "kind": "measured",
                    "lower": None,
                    "upper": None,
                    "outside": None,
                }
        values.update({a.entry.name: _value(a, position) for a in said})
        arch = catalog.space.architecture(trials.rows[i])
        found.append(
            {
                "label": "measured",
                "key": arch.key,
                "trial": trials.indices[i],
                "on_front": bool(trials.on_front[i]),
                "architecture": arch.to_dict(),
                "values": values,
            }
        )
    return found


def _from_predictors(
    catalog: Catalog, asked: Query, names: Sequence[str], measured: FloatArray
) -> list[dict[str, Any]]:
    entries = [catalog.entries[n] for n in names]
    known = catalog.trials.rows[np.isfinite(measured).all(axis=1)]  # these have an answer that is no guess
    rows = candidates(catalog, asked, names, entries)
    rows = rows[not_in(rows, known)]
    if not len(rows):
        return []
    order, kept = _order(asked, names, _predicted(catalog, asked, rows, entries))
    chosen = [int(i) for i in order if kept[i]][: asked.count]
    if not chosen:
        return []
    shown = list(dict.fromkeys([*names, *(e.name for e in catalog.entries.values() if e.default)]))
    said = answers(catalog, rows[chosen], [catalog.entries[n] for n in shown], level=asked.level)
    return [
        {
            "label": "predicted",
            "key": arch.key,
            "trial": None,
            "on_front": False,
            "architecture": arch.to_dict(),
            "values": {a.entry.name: _value(a, position) for a in said},
        }
        for position, arch in enumerate(catalog.space.architectures(rows[chosen]))
    ]


def candidates(catalog: Catalog, asked: Query, names: Sequence[str], entries: Sequence[Entry]) -> Population:
    """Returns the distinct rows (n, g) that predictors are asked about, at most `asked.candidates`.

    A space that is small enough is taken whole. Otherwise half are uniform draws and stored trials, and the rest are,
    in a few rounds, children (half mutated, half crossed) of those that look best. The same query has the same answer.
    """
    space = catalog.space
    if space.size() <= asked.candidates:
        return space.enumerate(limit=asked.candidates)
    rng = np.random.default_rng([asked.seed, 0])
    first = max(asked.candidates // 2, 1)
    pool = unique_rows(np.concatenate([space.sample(first, rng), catalog.trials.rows[: asked.candidates - first]]))
    values = _predicted(catalog, asked, pool, entries)
    for left in range(ROUNDS, 0, -1):
        share = (asked.candidates - len(pool)) // left
        if share < 2:
            break
        parents = pool[_order(asked, names, values)[0][:PARENTS]]
        mothers, fathers = (parents[rng.integers(0, len(parents), share - share // 2)] for _ in range(2))
        children = np.concatenate(
            [
                space.mutate(parents[rng.integers(0, len(parents), share // 2)], rng, 1.5 / space.n_genes),
                space.crossover(mothers, fathers, rng),
            ]
        )
        children = unique_rows(children)
        children = children[not_in(children, pool)]
        if len(children):
            pool = np.concatenate([pool, children])
            values = np.concatenate([values, _predicted(catalog, asked, children, entries)])
    return pool


def _predicted(catalog: Catalog, asked: Query, rows: Population, entries: Sequence[Entry]) -> FloatArray:
    """Returns what rows (n, g) are judged by (n, m): means, or the ends of intervals that are worse for the query."""
    said = answers(catalog, rows, entries, level=asked.level)
    if not asked.cautious:
        return np.stack([a.mean for a in said], axis=1)
    ways = {asked.prefer.name: asked.prefer.sign, **{o.name: o.sign for o in asked.limits}}
    return np.stack([a.upper if ways[a.entry.name] > 0 else a.lower for a in said], axis=1)


def _value(answer: Answer, i: int) -> dict[str, Any]:
    return {
        "value": _number(answer.mean[i]),
        "std": _number(answer.std[i]),
        "unit": answer.entry.unit,
        "kind": answer.entry.kind,
        "lower": _number(answer.lower[i]),
        "upper": _number(answer.upper[i]),
        "outside": None if answer.outside is None else bool(answer.outside[i]),
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
