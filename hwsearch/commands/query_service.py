"""`hwsearch query` and `hwsearch predict` of predictor files: the answers of the service without a server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hwsearch import build
from hwsearch.commands.query import architecture, parse_limit
from hwsearch.errors import UserError
from hwsearch.objectives import Objective
from hwsearch.service.loading import load
from hwsearch.service.prediction import answers
from hwsearch.service.ranking import Query, Source, limited, query, wanted

SOURCES: tuple[Source, ...] = ("trials", "predictors")


def predict_files(
    paths: Sequence[Path],
    archs: Sequence[str],
    *,
    metrics: Sequence[str] = (),
    level: float = 0.9,
    config: Path | None = None,
) -> list[dict[str, Any]]:
    """Returns what predictors in files say about architectures: one row per architecture and predictor, JSON-able.

    Args:
        paths: predictor files, of one space.
        archs: see `architecture`.
        metrics: by name, with or without device; all by default.
        level: of the intervals, in (0, 1).
        config: see `best`.

    Raises:
        UserError: unknown metric, or an architecture outside the space.
    """
    if not 0 < level < 1:
        raise UserError(f"--level must be between 0 and 1, but got {level}.")
    catalog = load(paths, plan_of=lambda raw, source: build.load_raw(raw, source=source), config=config)
    entries = catalog.select(list(metrics) or None, None)
    chosen = [architecture(text, catalog.space) for text in archs]
    found = answers(catalog, np.stack([catalog.space.row(arch) for arch in chosen]), entries, level=level)
    return [
        {
            "key": arch.key,
            "metric": answer.entry.name,
            "mean": float(answer.mean[i]),
            "std": float(answer.std[i]),
            "lower": float(answer.lower[i]),
            "upper": float(answer.upper[i]),
            "unit": answer.entry.unit,
            "kind": answer.entry.kind,
            "outside": None if answer.outside is None else bool(answer.outside[i]),
        }
        for i, arch in enumerate(chosen)
        for answer in found
    ]


def best(
    paths: Sequence[Path],
    *,
    prefer: str,
    limits: Sequence[str] = (),
    sources: Sequence[str] = (),
    count: int = 5,
    candidates: int = 10_000,
    seed: int = 0,
    level: float = 0.9,
    cautious: bool = False,
    config: Path | None = None,
) -> dict[str, Any]:
    """Returns the best architectures under limits, each labelled measured or predicted, JSON-able.

    Args:
        paths: run folders and predictor files, of one space.
        prefer: metric to be best in.
        limits: that answers keep, see `parse_limit`.
        sources: out of `SOURCES`; by default those that can answer.
        count: of answers, of each label at most.
        candidates: architectures that predictors are asked about at most.
        seed: of the candidates.
        level: of the intervals, in (0, 1).
        cautious: predicted values count with the worse end of their interval.
        config: configuration whose super-network gives the layer costs that predictors in files read.

    Raises:
        UserError: an argument is impossible, or nothing here can answer.
    """
    unknown = [s for s in sources if s not in SOURCES]
    if unknown:
        raise UserError(f"--from must be one of {list(SOURCES)}, but got {unknown[0]!r}.")
    for name, number in (("count", count), ("candidates", candidates)):
        if number < 1:
            raise UserError(f"--{name} must be at least 1, but got {number}.")
    if not 0 < level < 1:
        raise UserError(f"--level must be between 0 and 1, but got {level}.")
    if seed < 0:
        raise UserError(f"--seed must be at least 0, but got {seed}.")
    bounds = [parse_limit(text) for text in limits]
    catalog = load(paths, plan_of=lambda raw, source: build.load_raw(raw, source=source), config=config)
    objective = wanted(catalog, prefer)
    kept: list[Objective] = []
    for bound in bounds:
        lowest = bound.limit if bound.direction == "maximize" else None
        highest = bound.limit if bound.direction == "minimize" else None
        kept += limited(catalog, bound.metric, device=bound.device, at_least=lowest, at_most=highest)
    asked = Query(
        objective,
        tuple(kept),
        sources=tuple(s for s in SOURCES if not sources or s in sources),
        count=count,
        candidates=candidates,
        seed=seed,
        level=level,
        cautious=cautious,
    )
    return {
        "space": catalog.space.fingerprint,
        "prefer": objective.name,
        "direction": objective.direction,
        "answers": query(catalog, asked),
    }
