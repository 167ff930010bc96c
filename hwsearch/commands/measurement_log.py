"""Measurements of a device for a predictor: a folder whose table grows by whole lines, whatever happens."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwsearch.errors import UserError
from hwsearch.importers.table import RUN, STD, read_table, write_header, write_row
from hwsearch.results import Measurement
from hwsearch.runfolder import write_json
from predictors.base import FloatArray
from search_spaces.space import Population, SearchSpace

ERROR = "error"


@dataclass(frozen=True)
class Measured:
    """What the table holds.

    Args:
        tried: (t, g) every architecture of it, failures included.
        rows, values, stds: (n, g), (n,), (n,) of those with a value; standard errors are NaN where not known.
        runs: (n,) number of the measuring run of each value.
        n_runs: measuring runs, those without a value included.
    """

    tried: Population
    rows: Population
    values: FloatArray
    stds: FloatArray
    runs: NDArray[np.intp]
    n_runs: int


class MeasurementLog:
    """`table.csv`, which `hwsearch fit` reads, and `card.json`: what was measured, where, with which reference value.

    A line is written with one call and synchronised before the next measurement begins. What a kill left of a line is
    cut off when the folder is opened again. The caller holds the folder's lock.

    Args:
        path: of the folder; made when something is written.
        space: of the architectures.
        metrics: columns of numbers; each has another for its standard errors.
    """

    def __init__(self, path: Path, space: SearchSpace, *, metrics: Sequence[str]) -> None:
        self.path, self.space, self.metrics = path, space, tuple(metrics)
        self.table, self.card = path / "table.csv", path / "card.json"

    @property
    def columns(self) -> list[str]:
        """Columns after those of the genes."""
        return [*(name for metric in self.metrics for name in (metric, metric + STD)), RUN, ERROR]

    def open(self, identity: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the card of earlier measurements, with their `reference_ms`, or makes an empty folder.

        Args:
            identity: what all measurements must share: space, device, its settings and fingerprint, JSON-able.

        Raises:
            UserError: the folder's are of something else; names the first difference.
        """
        wanted: dict[str, Any] = json.loads(json.dumps(identity))
        if not self.card.is_file():
            if self.table.exists():
                raise UserError(f"{self.path} must hold card.json beside its table, but does not.")
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(self.card, wanted)
            self._append(write_header(self.space, self.columns))
            return wanted
        try:
            card: dict[str, Any] = json.loads(self.card.read_text())
        except ValueError as error:
            raise UserError(f"{self.card} must be JSON, but is damaged.") from error
        for key, value in wanted.items():
            if card.get(key) != value:
                raise UserError(
                    f"{self.path} must hold measurements of this {key} to continue, but it was {_short(card.get(key))} "
                    f"and is {_short(value)}; another --out begins anew."
                )
        self._repair()
        header = self.table.read_text().splitlines()[0].split(",")
        if header[self.space.n_genes :] != self.columns:
            raise UserError(
                f"{self.table} must have the columns {', '.join(self.columns)} to continue, but is of another version; "
                f"another --out begins anew."
            )
        return card

    def freeze(self, card: Mapping[str, Any], reference_ms: float) -> dict[str, Any]:
        """Writes what the device's reference net counts as from now on, and returns the new card."""
        made = {**card, "reference_ms": reference_ms}
        write_json(self.card, made)
        return made

    def add(self, row: Population, result: Mapping[str, Measurement] | str, *, run: int) -> None:
        """Stores what measuring run number `run` said of one architecture (g,), or one line why it could not.

        Durable on return.
        """
        cells: dict[str, float | str] = {}
        for metric in self.metrics:
            found = None if isinstance(result, str) else result.get(metric)
            cells[metric] = math.nan if found is None else found.value
            cells[metric + STD] = math.nan if found is None else found.std
        cells[RUN] = str(run)
        cells[ERROR] = result if isinstance(result, str) else ""
        self._append(write_row(self.space, row, cells))

    def read(self, metric: str) -> Measured:
        """Returns all that was tried, and what has a value of one metric."""
        lines = self.table.read_text().splitlines()
        n_genes = self.space.n_genes
        if len(lines) < 2:
            none = np.zeros((0, n_genes), np.uint8)
            return Measured(none, none, np.zeros(0), np.zeros(0), np.zeros(0, np.intp), 0)
        tried = read_table(self.table, self.space, target=metric, needs_label=False)
        known: NDArray[np.bool_] = np.isfinite(tried.values)
        stds = np.full(len(known), np.nan) if tried.stds is None else tried.stds
        assert tried.runs is not None, "it is one of our columns"
        n_runs = int(tried.runs.max()) + 1
        return Measured(tried.rows, tried.rows[known], tried.values[known], stds[known], tried.runs[known], n_runs)

    def _append(self, text: str) -> None:
        with self.table.open("ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())

    def _repair(self) -> None:
        """Cuts off a torn last line; writes the header where a kill came before it."""
        content = self.table.read_bytes() if self.table.exists() else b""
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with self.table.open("r+b") as file:
                file.truncate(whole)
                os.fsync(file.fileno())
        if not whole:
            self._append(write_header(self.space, self.columns))


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
