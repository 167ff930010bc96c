"""`hwsearch benchmark-engines`: which engine needs how many evaluations, on a table of results."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hwsearch import config as configuration
from hwsearch.build import registry
from hwsearch.engines.base import SearchEngine
from hwsearch.errors import UserError
from hwsearch.problems import describe
from hwsearch.runfolder import to_json, write_atomic
from hwsearch.tasks.compare import Curve, summary
from hwsearch.tasks.searches import Conditions, searches
from hwsearch.tasks.synthetic import synthetic_task
from hwsearch.tasks.tabular import Tabular, tabular_task
from hwsearch.tasks.task import Task


class EngineChoice(BaseModel):
    """One column of a comparison; `engine` is its name by default."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    engine: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)


class Synthetic(BaseModel):
    """The built-in task whose front is known exactly."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    n_stages: int = Field(default=4, ge=1, le=8)
    seed: int = Field(default=0, ge=0)


class Comparison(BaseModel):
    """What is compared on what. Exactly one of `tabular` and `synthetic`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    tabular: Tabular | None = None
    synthetic: Synthetic | None = None
    references: dict[str, dict[str, float]] = Field(default_factory=dict)
    engines: dict[str, EngineChoice | None] = Field(default_factory=lambda: dict.fromkeys(("pareto", "random")))
    levels: tuple[float, ...] = Field(default=(0.99, 0.999), min_length=1)

    def task(self) -> Task:
        """Returns the task.

        Raises:
            UserError: see `tabular_task`; not exactly one kind of task.
        """
        if (self.tabular is None) == (self.synthetic is None):
            raise UserError("a comparison must have one of tabular and synthetic.")
        if self.tabular is not None:
            return tabular_task(self.name, self.tabular, self.references)
        assert self.synthetic is not None
        if self.references:
            raise UserError("references must be left out with synthetic, which brings its own.")
        return synthetic_task(n_stages=self.synthetic.n_stages, seed=self.synthetic.seed)


@dataclass(frozen=True)
class Result:
    """A comparison.

    Args:
        task: its name.
        n_seeds: searches per engine.
        curves: reference -> engine -> curve.
        tables: reference -> rows of `summary`.
    """

    task: str
    n_seeds: int
    curves: Mapping[str, Mapping[str, Curve]]
    tables: Mapping[str, list[dict[str, float | str]]]


def load_comparison(path: Path) -> Comparison:
    """Returns the comparison that a YAML file describes; a table's relative path counts from the file's folder.

    Raises:
        ConfigError: what is wrong in the file.
    """
    raw = configuration.read_yaml(path)
    tabular = raw.get("tabular")
    if isinstance(tabular, dict) and isinstance(tabular.get("file"), str):
        raw["tabular"] = {**tabular, "file": str(path.parent / Path(tabular["file"]).expanduser())}
    try:
        return Comparison.model_validate(raw)
    except ValidationError as error:
        configuration.raise_problems(describe(error, raw, where="", schema=Comparison), str(path))
        raise AssertionError("an invalid comparison has problems") from error


def parse_noise(texts: Sequence[str]) -> dict[str, float]:
    """Returns metric -> deviation of texts like `mean_acc=0.2`.

    Raises:
        UserError: another form.
    """
    out = {}
    for text in texts:
        metric, _, value = text.partition("=")
        try:
            out[metric] = float(value)
        except ValueError:
            out[metric] = -1.0
        if not 0.0 <= out[metric] < np.inf:
            raise UserError(f"--noise must be METRIC=DEVIATION, but got {text!r}.")
    return out


def make_engine(name: str, options: Mapping[str, Any], task: Task, seed: int) -> SearchEngine:
    """Returns a search engine for a task by its name."""
    return registry.search_engine(
        name,
        options,
        given={"space": task.space, "n_objectives": len(task.metrics), "seed": seed, "exact": task.known()},
    )


def compare(
    comparison: Comparison,
    *,
    engines: Sequence[str] = (),
    trials: int = 200,
    seeds: int = 10,
    batch: int = 1,
    in_flight: int = 0,
    noise: Mapping[str, float] | None = None,
    processes: int = 1,
    observe: Callable[[str, int], None] | None = None,
) -> Result:
    """Returns what every engine reaches.

    Args:
        comparison: the task and perhaps the engines.
        engines: names of engines to compare instead of the comparison's; the first is what others are tested against.
        trials: evaluations per search.
        batch: evaluations proposed together.
        in_flight: evaluations always running, instead of batches.
        seeds: searches per engine.
        noise: metric -> standard deviation of the labels.
        processes: for the searches.
        observe: called with an engine's name and the number of its searches that are done.

    Raises:
        UserError: an unknown engine or metric.
    """
    task = comparison.task()
    chosen = {name: comparison.engines.get(name) for name in engines or comparison.engines}
    strange = [metric for metric in noise or {} if metric not in task.metrics]
    if strange:
        raise UserError(f"--noise must name a metric of the task ({list(task.metrics)}), but got {strange[0]!r}.")
    spread = np.array([(noise or {}).get(metric, 0.0) for metric in task.metrics])
    conditions = Conditions(trials, batch, in_flight, spread if noise else None)
    makers = {}
    for name, choice in chosen.items():
        made = choice or EngineChoice()
        makers[name] = partial(make_engine, made.engine or name, made.options)
        makers[name](task, 0)  # all mistakes before the first search
    curves: dict[str, dict[str, Curve]] = {reference: {} for reference in task.references}
    for name, make in makers.items():
        watch = None if observe is None else partial(observe, name)
        found = searches(task, make, range(seeds), conditions, processes=processes, observe=watch)
        for reference in task.references:
            shares = [task.shares(t.losses, reference) for t in found]
            curves[reference][name] = Curve.of(shares, [t.engine_seconds for t in found])
    checkpoints = [n for n in (20, 50, 100, 200, 500, 1000) if n <= trials]
    tables = {
        reference: summary(of, levels=comparison.levels, checkpoints=checkpoints) for reference, of in curves.items()
    }
    return Result(task.name, seeds, curves, tables)


def save_comparison(result: Result, out: Path) -> list[Path]:
    """Writes `<reference>.csv` with the curves, `<reference>.png` with their bands, and `summary.json`."""
    from hwsearch.report.curves import curve_picture

    written = []
    for reference, curves in result.curves.items():
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["engine", "evaluations", "q25", "median", "q75"])
        for name, curve in curves.items():
            for i, (low, middle, high) in enumerate(curve.band().T):
                writer.writerow([name, i + 1, f"{low:.6f}", f"{middle:.6f}", f"{high:.6f}"])
        bands = {name: curve.band() for name, curve in curves.items()}
        title = f"{result.task}, reference {reference}, {result.n_seeds} seeds"
        for suffix, content in ((".csv", text.getvalue().encode()), (".png", curve_picture(bands, title=title))):
            written.append(out / f"{reference}{suffix}")
            write_atomic(written[-1], content)
    written.append(out / "summary.json")
    found = {"task": result.task, "seeds": result.n_seeds, "references": result.tables}
    write_atomic(written[-1], to_json(found).encode())
    return written
