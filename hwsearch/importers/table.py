"""A user's own measurements: a CSV table with a column per gene and one per metric."""

from __future__ import annotations

import csv
import gzip
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hwsearch.errors import UserError
from hwsearch.problems import nearest
from predictors.base import FloatArray
from search_spaces.genes import Gene
from search_spaces.space import Population, SearchSpace

STD = "_std"
RUN = "run"
TRUE, FALSE = frozenset({"true", "yes", "1"}), frozenset({"false", "no", "0"})


@dataclass(frozen=True)
class MeasuredTable:
    """Labelled architectures, in the order of the file.

    Args:
        rows: (n, g) canonical.
        values: (n,) finite.
        stds: (n,) standard errors from the column `<target>_std`, NaN where empty; None without the column.
        runs: (n,) numbers from 0 of what the column `run` names; None without the column.
        unlabelled: rows of the file whose target was empty, which are not among these.
    """

    rows: Population
    values: FloatArray
    stds: FloatArray | None
    runs: NDArray[np.intp] | None
    unlabelled: int


def read_table(path: Path, space: SearchSpace, *, target: str, needs_label: bool = True) -> MeasuredTable:
    """Returns the labelled rows of a CSV file (or .csv.gz). An empty label means: not measured.

    Args:
        path: its header names every gene of the space and the target; other columns do not matter.
        space: of the architectures.
        target: column of labels; `<target>_std`, if there, has their standard errors, and `run` says which labels
            were measured together.
        needs_label: False also returns rows without a label, whose value is NaN.

    Raises:
        UserError: no such file or column, a value that is no choice, a label that is no finite number, or no labels;
            says which line.
    """
    header, lines = _read(path)
    missing = [gene.name for gene in space.genes if gene.name not in header]
    if missing:
        more = "" if len(missing) == 1 else f" (nor for {len(missing) - 1} more)"
        raise UserError(
            f"{path} must have a column for every gene of the space, but has none for {missing[0]!r}{more}"
            f"{nearest(missing[0], list(header))}."
        )
    if target not in header or target in space.index:
        others = [name for name in header if name not in space.index]
        raise UserError(f"{path} must have a column {target!r}{nearest(target, others)}, but has {_short(others)}.")
    labelled = [(number, line) for number, line in lines if not needs_label or line[header[target]].strip()]
    rows = np.zeros((len(labelled), space.n_genes), dtype=np.uint8)
    empty = np.zeros(rows.shape, dtype=np.bool_)
    for g, gene in enumerate(space.genes):
        table = _Choices(gene)
        for i, (number, line) in enumerate(labelled):
            text = line[header[gene.name]].strip()
            if not text:
                empty[i, g] = True
                continue
            found = table(text)
            if found is None:
                raise UserError(
                    f"{path}, line {number}: gene {gene.name!r} must be one of {list(gene.choices)}, but got {text!r}."
                )
            rows[i, g] = found
    rows = space.canonical(rows)
    bad = np.argwhere(empty & space.active(rows))
    if len(bad):
        i, g = (int(x) for x in bad[0])
        raise UserError(f"{path}, line {labelled[i][0]}: gene {space.genes[g].name!r} must have a value, but is empty.")
    texts = [(number, line[header[target]]) for number, line in labelled]
    values = np.array([_label(path, number, target, text) if text.strip() else math.nan for number, text in texts])
    stds = None
    if target + STD in header:
        stds = np.array([_std(path, number, target + STD, line[header[target + STD]]) for number, line in labelled])
    if not len(values):
        raise UserError(f"{path} must have at least one row with a {target}, but has none.")
    runs = None
    if RUN in header and RUN not in space.index:
        runs = np.unique([line[header[RUN]].strip() for _, line in labelled], return_inverse=True)[1].ravel()
    return MeasuredTable(rows, values, stds, runs, len(lines) - len(labelled))


def write_row(space: SearchSpace, row: Population, others: Mapping[str, float | str]) -> str:
    """Returns one line of such a table, its end included: the genes of one row (g,), then other columns."""
    text = io.StringIO()
    values = space.architecture(row).to_dict()
    cells = [values.get(gene.name, "") for gene in space.genes]
    csv.writer(text, lineterminator="\n").writerow([*cells, *[_cell(value) for value in others.values()]])
    return text.getvalue()


def write_header(space: SearchSpace, others: Sequence[str]) -> str:
    """Returns the first line of such a table, its end included."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow([*[gene.name for gene in space.genes], *others])
    return text.getvalue()


def _cell(value: float | str) -> str:
    if isinstance(value, str):
        return " ".join(value.split())
    return "" if math.isnan(value) else repr(float(value))


def _read(path: Path) -> tuple[dict[str, int], list[tuple[int, list[str]]]]:
    """Returns the columns by name, and the lines with their numbers; blank lines are left out."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        with io.StringIO(content.decode("utf-8-sig"), newline="") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            lines = [(reader.line_num, line) for line in reader if any(cell.strip() for cell in line)]
    except (OSError, UnicodeDecodeError, csv.Error, EOFError) as error:
        raise UserError(f"a table must be a CSV file, but {path} cannot be read: {_reason(error)}.") from error
    twice = [name for name in header if name and header.count(name) > 1]
    if not header or twice:
        raise UserError(
            f"{path} must have a header with distinct names, but {repr(twice[0]) if twice else 'it'} is not one."
        )
    for number, line in lines:
        if len(line) != len(header):
            raise UserError(f"{path}, line {number}: there must be {len(header)} cells, but got {len(line)}.")
    return {name: i for i, name in enumerate(header)}, lines


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)).rstrip(".")


class _Choices:
    """Cell -> index of a gene's choice; None where it is none."""

    def __init__(self, gene: Gene) -> None:
        self._texts: dict[str, int] = {}
        self._numbers: list[tuple[float, int]] = []
        for i, choice in enumerate(gene.choices):
            if isinstance(choice, bool):
                self._texts |= dict.fromkeys(TRUE if choice else FALSE, i)
            elif isinstance(choice, str):
                self._texts[choice] = i
            else:
                self._numbers.append((float(choice), i))
        self._boolean = isinstance(gene.choices[0], bool)

    def __call__(self, text: str) -> int | None:
        if not self._numbers:
            return self._texts.get(text.lower() if self._boolean else text)
        try:
            value = float(text)
        except ValueError:
            return None
        # Other programs write 0.1 with more or fewer digits.
        return next(
            (i for number, i in self._numbers if math.isclose(number, value, rel_tol=1e-6, abs_tol=1e-12)), None
        )


def _label(path: Path, number: int, target: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(
            f"{path}, line {number}: {target} must be a finite number, or empty where not measured, "
            f"but got {text.strip()!r}."
        )
    return value


def _std(path: Path, number: int, column: str, text: str) -> float:
    if not text.strip():
        return math.nan
    try:
        value = float(text)
    except ValueError:
        value = math.inf
    if math.isinf(value) or value < 0:
        raise UserError(f"{path}, line {number}: {column} must be a number of at least 0, but got {text.strip()!r}.")
    return value


def _short(names: Sequence[str]) -> str:
    shown = ", ".join(names[:8]) or "none besides genes"
    return shown + (", ..." if len(names) > 8 else "")
