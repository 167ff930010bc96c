"""Warm start: results of earlier runs, other devices and tables, as hints for an engine."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hwsearch.config import parse
from hwsearch.engines.warm_start import Source
from hwsearch.errors import UserError
from hwsearch.objectives import Objective
from hwsearch.runfolder import RunFolder
from hwsearch.study import Study, readable_storage
from hwsearch.tracked import Tracked
from search_spaces.space import SearchSpace

FloatArray = NDArray[np.float64]


def load_sources(space: SearchSpace, objectives: Sequence[Objective], paths: Sequence[Path]) -> list[Source]:
    """Returns one source per path: the folder of a run of the same space, or a CSV table of genes and metrics.

    An objective's column is the metric of the same name (`latency_ms@phone`); where there is none, the same metric of
    another device, or without device, stands in: it says how the metric varies, and the engine learns how much.

    Raises:
        UserError: no such run or table, another space, or none of the objectives' metrics.
    """
    return [_of_run(space, objectives, path) if path.is_dir() else _of_table(space, objectives, path) for path in paths]


def _of_run(space: SearchSpace, objectives: Sequence[Objective], path: Path) -> Source:
    folder = RunFolder(path)
    raw = {key: value for key, value in folder.load_config().items() if key != "format_version"}
    config = parse(raw).config
    if config is None:
        raise UserError(f"search.warm_start must name runs of this version, but got {path}.")
    tracked = Tracked(config)
    needed = {o.device for o in (*tracked.objectives, *tracked.limits)}
    study = Study(
        config.name,
        space,
        objectives=tracked.objectives,
        limits=tracked.limits,
        devices=[device for device in config.devices if device in needed],
        storage=readable_storage(config.storage, folder.journal),
        read_only=True,
    )
    names = {name for trial in study.trials for name in trial.metrics}
    columns = _columns(objectives, names, path)
    values = [[trial.metrics.get(name or "", np.nan) for name in columns] for trial in study.trials]
    rows = np.array([trial.row for trial in study.trials], dtype=np.uint8).reshape(-1, space.n_genes)
    return _source(str(path), rows, np.array(values, dtype=np.float64).reshape(-1, len(columns)), objectives)


def _of_table(space: SearchSpace, objectives: Sequence[Objective], path: Path) -> Source:
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text())))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"search.warm_start must name runs or CSV tables, but got {path}: {error}") from error
    missing = [gene.name for gene in space.genes if rows and gene.name not in rows[0]]
    if not rows or missing:
        what = f"has no {missing[0]!r}" if missing else "has no rows"
        raise UserError(f"search.warm_start: {path} must have a column for every gene, but {what}.")
    columns = _columns(objectives, set(rows[0]), path)
    table: list[dict[str, int]] = [{str(c): i for i, c in enumerate(gene.choices)} for gene in space.genes]
    genotypes = np.zeros((len(rows), space.n_genes), dtype=np.uint8)
    for i, row in enumerate(rows):
        for j, gene in enumerate(space.genes):
            cell = row[gene.name] or str(gene.choices[0])  # what is inactive may be empty
            if cell not in table[j]:
                wanted = f"{gene.name} must be one of {list(gene.choices)}"
                raise UserError(f"search.warm_start: {path}: {wanted}, but got {cell!r}.")
            genotypes[i, j] = table[j][cell]
    values = [[_number(row, name) for name in columns] for row in rows]
    return _source(str(path), space.canonical(genotypes), np.array(values), objectives)


def _number(row: Mapping[str, str], name: str | None) -> float:
    try:
        return float(row[name]) if name is not None else np.nan
    except ValueError:
        return np.nan


def _columns(objectives: Sequence[Objective], names: set[str], path: Path) -> list[str | None]:
    """Returns what stands for each objective, None if nothing does."""
    found = []
    for objective in objectives:
        others = sorted(name for name in names if name.partition("@")[0] == objective.metric)
        found.append(objective.name if objective.name in names else next(iter(others), None))
    if not any(found):
        raise UserError(f"search.warm_start: {path} must hold one of {[o.name for o in objectives]}, but has none.")
    return found


def _source(name: str, rows: NDArray[np.uint8], values: FloatArray, objectives: Sequence[Objective]) -> Source:
    signs = np.array([o.sign for o in objectives])
    return Source(name, rows, values * signs)
