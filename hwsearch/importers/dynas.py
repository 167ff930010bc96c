"""Result files of DyNAS-T as populations with metrics, training sets of predictors and finished evaluations."""

from __future__ import annotations

import ast
import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hwsearch.errors import UserError
from hwsearch.importers.dynas_configs import READERS
from hwsearch.results import Evaluation
from search_spaces.populations import unique_rows
from search_spaces.space import Population
from search_spaces.supernet import Family

FloatArray = NDArray[np.float64]

CONFIG = "Sub-network"
QUANTISED = ("q_bits", "q_weights_mode")
METRICS: Mapping[str, tuple[str, float]] = {
    "Model Parameters": ("parameters", 1.0),
    "Latency (ms)": ("latency_ms", 1.0),
    "MACs": ("macs", 1.0),
    "Model Size": ("model_size", 1.0),
    "Top-1 Acc (%)": ("accuracy", 0.01),
    "SST-2 Acc": ("accuracy", 1.0),
    "BLEU Score": ("bleu", 1.0),
}
"""Column -> our metric, factor to our unit (accuracy is a share; the unit of `model_size` is the file's)."""


class DynasError(UserError):
    """A file is no result file of DyNAS-T, or of another space; one line with the place."""


@dataclass(frozen=True)
class DynasResults:
    """Every row of a file, in order.

    Args:
        population: (n, g) canonical rows; an architecture occurs as often as in the file.
        metrics: name -> (n,); NaN where the file has 0, which is how it writes "not measured".
        dates: (n,) as written.
        shifted: the columns of an old translation file were put right.
    """

    population: Population
    metrics: Mapping[str, FloatArray]
    dates: tuple[str, ...]
    shifted: bool = False

    def __len__(self) -> int:
        return len(self.population)

    def training_set(self, metric: str) -> tuple[Population, FloatArray]:
        """Returns the rows (k, g) and values (k,) of a metric, for a predictor; rows without it are left out.

        Raises:
            DynasError: the file does not have the metric.
        """
        if metric not in self.metrics:
            raise DynasError(f"metric must be one of {list(self.metrics)}, but got {metric!r}.")
        values: FloatArray = self.metrics[metric]
        known = ~np.isnan(values)
        return self.population[known], values[known]

    def evaluations(self, *, device: str | None = None) -> tuple[Population, list[Evaluation]]:
        """Returns distinct architectures (k, g) in order of appearance, and their results as finished evaluations.

        Several rows of one architecture become their mean. Metrics that no row has are left out.

        Args:
            device: name under which latencies are recorded, `latency_ms@device`; None leaves them out.
        """
        rows = unique_rows(self.population)
        place = {row.tobytes(): i for i, row in enumerate(rows)}
        owner = np.array([place[row.tobytes()] for row in self.population], dtype=np.intp)
        means = {name: _means(values, owner, len(rows)) for name, values in self.metrics.items()}
        out = []
        for i in range(len(rows)):
            known = {name: float(values[i]) for name, values in means.items() if not np.isnan(values[i])}
            latency = known.pop("latency_ms", None)
            if latency is not None and device is not None:
                known[f"latency_ms@{device}"] = latency
            attributes = {"imported": "dynas", "n_rows": int((owner == i).sum())}
            out.append(Evaluation(metrics=known, seconds=0.0, attributes=attributes))
        return rows, out


def _means(values: FloatArray, owner: NDArray[np.intp], n: int) -> FloatArray:
    """Returns the mean of the known values of each owner (n,), NaN where there are none."""
    known = ~np.isnan(values)
    count = np.bincount(owner[known], minlength=n)
    total = np.bincount(owner[known], weights=values[known], minlength=n)
    means: FloatArray = np.divide(total, count, out=np.full(n, np.nan), where=count > 0)
    return means


def parse_dynas(source: str | Path, family: Family) -> DynasResults:
    """Returns the results of a DyNAS-T file. Nothing in it is executed: configurations are literals.

    0 means not measured. In old translation files MACs stand under `Latency (ms)` and parameters under `MACs`, with
    zeros under `Model Parameters`; they are put right. MACs are as the file counts them, which changed over time.

    Args:
        source: path of the CSV file.
        family: whose sub-networks it holds, with the published choices.

    Raises:
        DynasError: not such a file, a configuration of another space, or a value that is no number.
    """
    path = Path(source)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DynasError(f"{path} must be a readable CSV file, but: {error}.") from error
    if family.name not in READERS:
        raise DynasError(f"results of DyNAS-T must be of one of {list(READERS)}, but the family is {family.name!r}.")
    lines = list(csv.reader(io.StringIO(text)))
    header = [name.strip() for name in lines[0]] if lines else []
    columns = {METRICS[name][0]: i for i, name in enumerate(header) if name in METRICS}
    if CONFIG not in header or not columns:
        raise DynasError(
            f"{path} must have the column {CONFIG!r} and one of {list(METRICS)}, but its first line is {header[:6]}."
        )
    rows, values, dates = [], [], []
    for number, line in enumerate(lines[1:], start=2):
        if not line:
            continue
        where = f"{path}, line {number}"
        if len(line) != len(header):
            raise DynasError(f"{where} must have {len(header)} values, but got {len(line)}.")
        rows.append(_row(line[header.index(CONFIG)], family, where))
        values.append([_number(line[i], header[i], where) * METRICS[header[i]][1] for i in columns.values()])
        dates.append(line[header.index("Date")] if "Date" in header else "")
    population = np.array(rows, dtype=np.uint8).reshape(-1, family.space.n_genes)
    table = np.array(values, dtype=np.float64).reshape(len(rows), len(columns))
    table[table == 0] = np.nan
    metrics = {name: table[:, j] for j, name in enumerate(columns)}
    if (metrics.get("accuracy", np.zeros(0)) > 1).any():  # some files give SST-2's in percent
        metrics["accuracy"] = metrics["accuracy"] / 100
    shifted = _is_shifted(metrics)
    if shifted:
        nothing = np.full(len(rows), np.nan)
        metrics |= {"parameters": metrics["macs"], "macs": metrics["latency_ms"], "latency_ms": nothing}
    return DynasResults(population, metrics, tuple(dates), shifted)


def _is_shifted(metrics: Mapping[str, FloatArray]) -> bool:
    """Returns whether "latencies" of more than ten minutes stand beside smaller "MACs" and no parameters at all."""
    if not {"bleu", "parameters", "latency_ms", "macs"} <= set(metrics) or not len(metrics["bleu"]):
        return False
    latency, macs = metrics["latency_ms"], metrics["macs"]
    return bool(np.isnan(metrics["parameters"]).all() and (latency > 600_000).all() and (latency > macs).all())


def _row(text: str, family: Family, where: str) -> NDArray[np.uint8]:
    try:
        config = ast.literal_eval(text.replace("null", "None"))
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise DynasError(f"{where}: {CONFIG!r} must be a dictionary of lists, but got {text[:60]!r}.") from error
    if not isinstance(config, dict):
        raise DynasError(f"{where}: {CONFIG!r} must be a dictionary of lists, but got {text[:60]!r}.")
    quantised = [key for key in QUANTISED if any(bits not in (32, None) for bits in _flat(config.get(key)))]
    if quantised:
        raise DynasError(f"{where}: sub-networks must not be quantised, but got {quantised[0]!r}.")
    try:
        return family.space.row(READERS[family.name](config, family))
    except ValueError as error:
        raise DynasError(f"{where}: not a sub-network of {family.name}: {error}") from error


def _flat(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else [value]


def _number(text: str, column: str, where: str) -> float:
    try:
        return float(text) if text.strip() else 0.0
    except ValueError as error:
        raise DynasError(f"{where}: {column!r} must be a number, but got {text!r}.") from error
