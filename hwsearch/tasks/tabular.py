"""Tabular tasks: any table of results (CSV) as a space that can be searched."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from hwsearch import pareto
from hwsearch.errors import UserError
from hwsearch.objectives import Direction
from hwsearch.tasks.task import Task, searched_front
from predictors.ridge import Ridge
from search_spaces.genes import Condition, Gene, Value
from search_spaces.populations import row_keys
from search_spaces.space import Population, SearchSpace

FloatArray = NDArray[np.float64]

MIN_COVERAGE = 0.2
"""Share of the space that a table must hold if nothing stands in for the rest."""


class GeneColumn(BaseModel):
    """A column that is a gene; its choices are the values found.

    `when`: column -> values with which the gene matters; in other rows its value counts for nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    when: dict[str, list[Any]] = Field(default_factory=dict)


class Tabular(BaseModel):
    """A table of results as a task.

    Args:
        file: CSV, plain or gzip, one architecture per row and a header; rows of equal genes are averaged.
        genes: columns that make an architecture; as a mapping also with conditions.
        metrics: columns that are searched over, each with its direction.
        exact: those of them that engines may compute themselves.
        fill: `fail` - an architecture that is not in the table fails; `predictor` - a ridge regression fitted on the
            table answers for all architectures, those in the table included, so that the task is smooth.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    file: Path
    genes: dict[str, GeneColumn] = Field(min_length=1)
    metrics: dict[str, Direction] = Field(min_length=1)
    exact: tuple[str, ...] = ()
    fill: Literal["fail", "predictor"] = "fail"

    @field_validator("genes", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        if isinstance(value, list):
            return {name: {} for name in value}
        return {n: c or {} for n, c in value.items()} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _consistent(self) -> Tabular:
        for name in self.exact:
            if name not in self.metrics:
                raise ValueError(f"exact must name metrics ({list(self.metrics)}), but got {name!r}.")
        both = [name for name in self.metrics if name in self.genes]
        if both:
            raise ValueError(f"a column must be a gene or a metric, but {both[0]!r} is both.")
        return self

    def read(self) -> Table:
        """Returns the table.

        Raises:
            UserError: missing file or column, no rows, or a metric that is no number.
        """
        rows = _rows(self.file, [*self.genes, *self.metrics])
        columns = {name: _values([row[name] for row in rows]) for name in self.genes}
        space = SearchSpace([self._gene(name, columns) for name in self.genes])
        indices = [[space.genes[j].index(v) for v in columns[name]] for j, name in enumerate(self.genes)]
        population = space.canonical(np.array(indices, dtype=np.uint8).T)
        signs = np.array([1.0 if d == "minimize" else -1.0 for d in self.metrics.values()])
        values = np.array([[_number(row, name, self.file) for name in self.metrics] for row in rows])
        _, first, inverse = np.unique(row_keys(population), return_index=True, return_inverse=True)
        count = np.bincount(inverse)
        mean = np.stack([np.bincount(inverse, column) / count for column in (signs * values).T], axis=1)
        order = np.argsort(first)
        return Table(space, population[first[order]], mean[order])

    def _gene(self, name: str, columns: Mapping[str, Sequence[Value]]) -> Gene:
        for parent, values in self.genes[name].when.items():
            if parent not in columns:
                raise UserError(f"genes.{name}.when must name genes, but got {parent!r}.")
            strange = [v for v in values if v not in columns[parent]]
            if strange:
                raise UserError(f"genes.{name}.when.{parent} must hold values of the table, but got {strange[0]!r}.")
        choices = sorted(set(columns[name]), key=lambda v: (0.0, v) if isinstance(v, str) else (float(v), ""))
        conditions = tuple(Condition(parent, tuple(values)) for parent, values in self.genes[name].when.items())
        return Gene(name, tuple(choices), active_when=conditions)


class Table:
    """Losses of some architectures of a space; of others NaN. Picklable.

    Args:
        space: of the rows.
        population: (n, g) distinct canonical rows.
        losses: (n, m) of them.
    """

    def __init__(self, space: SearchSpace, population: Population, losses: FloatArray) -> None:
        self.space, self.population, self.values = space, population, losses
        self._row = {key.tobytes(): i for i, key in enumerate(population)}

    def __call__(self, population: Population) -> FloatArray:
        """Returns losses (n, m); NaN in the rows of architectures that are not in the table."""
        missing = len(self.values)
        rows = [self._row.get(row.tobytes(), missing) for row in np.ascontiguousarray(population)]
        return np.concatenate([self.values, np.full((1, self.values.shape[1]), np.nan)])[rows]


class StandIns:
    """Ridge regressions that answer for every architecture of a space. Picklable."""

    def __init__(self, table: Table) -> None:
        self._models = [Ridge(table.space).fit(table.population, column) for column in table.values.T]

    def __call__(self, population: Population) -> FloatArray:
        """Returns losses (n, m)."""
        return np.stack([model.predict(population).mean for model in self._models], axis=1)


def tabular_task(name: str, settings: Tabular, references: Mapping[str, Mapping[str, float]] | None = None) -> Task:
    """Returns a table as a task.

    Args:
        name: of the task.
        settings: which table, and what it means.
        references: name -> metric -> value, in the table's unit; by default `worst`, the worst of every metric.

    Raises:
        UserError: as `Tabular.read`; the table holds too little of its space; a reference lacks a metric.
    """
    table = settings.read()
    coverage = len(table.population) / table.space.size()
    if settings.fill == "fail" and coverage < MIN_COVERAGE:
        raise UserError(
            f"{settings.file} must hold at least {MIN_COVERAGE:.0%} of the {table.space.size():,} architectures of its "
            f"genes, but holds {len(table.population):,}; with fill: predictor a regression stands in for the rest."
        )
    losses = table if settings.fill == "fail" else StandIns(table)
    front = table.values[pareto.front(table.values)] if settings.fill == "fail" else searched_front(table.space, losses)
    points = {"worst": table.values.max(axis=0)}
    if references:
        points = {}
        for label, values in references.items():
            if set(values) != set(settings.metrics):
                raise UserError(
                    f"references.{label} must give every metric ({list(settings.metrics)}), but got {list(values)}."
                )
            signs = [1.0 if d == "minimize" else -1.0 for d in settings.metrics.values()]
            points[label] = np.array([s * values[m] for s, m in zip(signs, settings.metrics, strict=True)])
    exact = tuple(metric in settings.exact for metric in settings.metrics)
    return Task(name, table.space, tuple(settings.metrics), losses, exact, front, points)


def _rows(file: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    try:
        raw = file.read_bytes()
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"tabular.file must be a CSV file that can be read, but got {file}: {error}") from error
    reader = csv.DictReader(io.StringIO(text))
    missing = [name for name in needed if name not in (reader.fieldnames or [])]
    if missing:
        raise UserError(f"{file} must have the columns {list(needed)}, but has no {missing[0]!r}.")
    rows = list(reader)
    if not rows:
        raise UserError(f"{file} must have at least one row, but has none.")
    return rows


def _values(texts: Sequence[str]) -> list[Value]:
    """Returns a column as whole numbers, as numbers or, if one cell is neither, as strings."""
    for kind in (int, float):
        try:
            return [kind(text) for text in texts]
        except ValueError:
            continue
    return list(texts)


def _number(row: Mapping[str, str], name: str, file: Path) -> float:
    try:
        value = float(row[name])
    except (TypeError, ValueError):
        value = float("nan")
    if not np.isfinite(value):
        raise UserError(f"{file} must hold a finite number in every row of {name!r}, but holds {row[name]!r}.")
    return value
