"""Architectures from JSON, all at once, and what the catalog's predictors say about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwsearch.service.catalog import Catalog, Entry, RequestError, TooLargeError
from predictors.base import FloatArray, Predictor
from search_spaces.space import Population, SearchSpace

ABSENT = 255
"""Larger than any choice index: a gene that an architecture does not give."""
NOTHING = object()
"""What JSON cannot hold."""


@dataclass(frozen=True)
class Answer:
    """Of one entry for n architectures: mean, deviation and the ends of the interval, each (n,).

    `outside`: (n,) which are outside of the training range; None when the predictor's file does not say.
    """

    entry: Entry
    mean: FloatArray
    std: FloatArray
    lower: FloatArray
    upper: FloatArray
    interval: str
    outside: NDArray[np.bool_] | None


def parse(space: SearchSpace, source: Any, *, limit: int) -> Population:
    """Returns canonical rows (n, g) of architectures in JSON.

    Args:
        space: of the architectures.
        source: one mapping of genes to values, or a list of such mappings, or a list of rows of choice indices.
        limit: on n.

    Raises:
        TooLargeError: more than `limit`.
        RequestError: anything else that is wrong with them; names the first place.
    """
    items = [source] if isinstance(source, dict) else source
    if not isinstance(items, list) or not items:
        raise RequestError("architectures must be a mapping of genes, or a list of at least one mapping or row.")
    if len(items) > limit:
        raise TooLargeError(f"a request must have at most {limit:,} architectures, but got {len(items):,}.")
    kind: type = dict if isinstance(items[0], dict) else list
    for i, item in enumerate(items):
        if not isinstance(item, kind):
            raise RequestError(
                f"architectures must be all mappings or all rows of choice indices, but [{i}] is "
                f"{'a list' if isinstance(item, list) else 'a mapping' if isinstance(item, dict) else 'neither'}."
            )
    return _mappings(space, items) if kind is dict else _rows(space, items)


def _rows(space: SearchSpace, items: Sequence[Sequence[Any]]) -> Population:
    for i, item in enumerate(items):
        if len(item) != space.n_genes:
            raise RequestError(f"architectures[{i}] must have {space.n_genes} choice indices, but got {len(item)}.")
        if any(type(value) is not int for value in item):
            raise RequestError(f"architectures[{i}] must hold integers only.")
    try:
        rows = np.array(items, dtype=np.int64)
    except OverflowError as error:
        raise RequestError("choice indices must be at most 254, but one is huge.") from error
    bad = (rows < 0) | (rows >= space.n_choices)
    if bad.any():
        i, g = (int(x) for x in np.argwhere(bad)[0])
        raise RequestError(
            f"architectures[{i}]: the index of gene {space.genes[g].name!r} must be from 0 to "
            f"{space.n_choices[g] - 1}, but got {rows[i, g]}."
        )
    return space.canonical(rows.astype(np.uint8))


def _mappings(space: SearchSpace, items: Sequence[Mapping[str, Any]]) -> Population:
    rows = np.full((len(items), space.n_genes), ABSENT, dtype=np.uint8)
    try:
        for column, gene in enumerate(space.genes):  # gene by gene: every loop over architectures is one of C's
            place: dict[Any, int] = {choice: i for i, choice in enumerate(gene.choices)}
            values = [item.get(gene.name, NOTHING) for item in items]
            given = [value is not NOTHING for value in values]
            if not all(given):
                values = [value for value in values if value is not NOTHING]
            # True and 1 are equal as keys, so booleans are told apart.
            if not {isinstance(gene.choices[0], bool)}.issuperset(kind is bool for kind in set(map(type, values))):
                raise KeyError(gene.name)
            rows[given, column] = list(map(place.__getitem__, values))
    except (KeyError, TypeError):
        _explain_first(space, items)
        raise  # not reached: the explanation raises
    given_genes = rows != ABSENT
    if (given_genes.sum(axis=1) != np.fromiter(map(len, items), dtype=np.intp, count=len(items))).any():
        _explain_first(space, items)  # something is there that is no gene
    canonical = space.canonical(np.where(given_genes, rows, np.uint8(0)))
    missing = space.active(canonical) & ~given_genes
    if missing.any():
        i, g = (int(x) for x in np.argwhere(missing)[0])
        raise RequestError(
            f"architectures[{i}]: an architecture must give every active gene, but {space.genes[g].name!r} is missing."
        )
    return canonical


def _explain_first(space: SearchSpace, items: Sequence[Mapping[str, Any]]) -> None:
    """Raises what is wrong with the first gene, in the order of the request, that is none or holds no choice."""
    for i, item in enumerate(items):
        for name, value in item.items():
            choices = space.genes[space.index[name]].choices if name in space.index else ()
            if not any(isinstance(value, bool) is isinstance(c, bool) and value == c for c in choices):
                _explain(space, i, name, value)


def _explain(space: SearchSpace, i: int, name: str, value: Any) -> None:
    """Raises what the space itself says about a gene it does not have, or a value that is no choice."""
    if name not in space.index:
        try:
            space.row({name[:100]: 0})
        except ValueError as error:
            raise RequestError(f"architectures[{i}]: {error}") from error
    choices = list(space.genes[space.index[name]].choices)
    shown = repr(value)
    shown = shown if len(shown) <= 40 else shown[:37] + "..."
    raise RequestError(f"architectures[{i}]: gene {name!r} must be one of {choices}, but got {shown}.")


def answers(catalog: Catalog, rows: Population, entries: Sequence[Entry], *, level: float) -> list[Answer]:
    """Returns what each entry says about canonical rows (n, g).

    An interval is the predictor's own: from its held-out errors where it kept them, else that of a normal with the
    predicted mean and deviation. That of an exact cost is one point.

    Args:
        catalog: of the entries.
        rows: (n, g) canonical.
        entries: of the catalog.
        level: probability that a new measurement lies in the interval, in (0, 1).
    """
    costs = None
    found = []
    for entry in entries:
        if entry.predictor is None:
            if costs is None:
                assert catalog.supernet is not None
                costs = catalog.supernet.costs(rows)
            mean = np.asarray(getattr(costs, entry.metric), dtype=np.float64)
            inside = np.zeros(len(rows), np.bool_)
            found.append(Answer(entry, mean, np.zeros(len(rows)), mean, mean, "exact", inside))
            continue
        prediction = entry.predictor.predict(rows)
        lower, upper = entry.predictor.ends(prediction, level)
        outside = None if entry.range is None else entry.range.outside(catalog.space, rows, stds=prediction.std)
        kind = "normal" if type(entry.predictor).ends is Predictor.ends else "held-out errors"
        found.append(Answer(entry, prediction.mean, prediction.std, lower, upper, kind, outside))
    return found


def numbers(values: FloatArray) -> list[float | None]:
    """Returns an array (n,) as JSON numbers, null where not finite."""
    if np.isfinite(values).all():
        return values.tolist()  # type: ignore[no-any-return]
    return [float(v) if np.isfinite(v) else None for v in values]


def predict(
    catalog: Catalog,
    architectures: Any,
    *,
    metrics: Sequence[str] | None = None,
    devices: Sequence[str] | None = None,
    level: float = 0.9,
    limit: int = 10_000,
) -> dict[str, Any]:
    """Returns the content of an answer to `POST /v1/predict`: one column of values per metric and device.

    Raises:
        RequestError: see `parse` and `Catalog.select`.
    """
    entries = catalog.select(metrics, devices)
    rows = parse(catalog.space, architectures, limit=limit)
    return {
        "space": catalog.space.fingerprint,
        "count": len(rows),
        "level": level,
        "predictions": [
            {
                "name": a.entry.name,
                "metric": a.entry.metric,
                "device": a.entry.device,
                "unit": a.entry.unit,
                "kind": a.entry.kind,
                "model": a.entry.model,
                "interval": a.interval,
                "mean": numbers(a.mean),
                "std": numbers(a.std),
                "lower": numbers(a.lower),
                "upper": numbers(a.upper),
                "outside": None if a.outside is None else a.outside.tolist(),
            }
            for a in answers(catalog, rows, entries, level=level)
        ],
    }
