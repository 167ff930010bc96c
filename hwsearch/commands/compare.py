"""`hwsearch compare`: runs side by side, seeds of one configuration together, with statistics."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hwsearch.commands.query import run_plan
from hwsearch.commands.report import open_study
from hwsearch.errors import UserError
from hwsearch.objectives import COST_METRICS, DEVICE_METRICS, Objective
from hwsearch.problems import nearest
from hwsearch.report.comparison import Searched, comparison
from hwsearch.report.comparison_figure import FORMS, comparison_figure
from hwsearch.runfolder import write_atomic
from hwsearch.study import Study

NO_SETTING = ("name", "seed", "storage", "executor", "export", "logging", "decided")
"""Sections in which runs of one configuration may differ: seeds, places, who carried the work."""
NO_SETTING_BELOW = ("search.trials", "training.seed")

Settings = Mapping[str, str]
"""`search.engine` -> its value as JSON."""


def compare(
    runs: Sequence[Path],
    *,
    group: str | None = None,
    against: str | None = None,
    trials: int | None = None,
    figure: Path | None = None,
) -> dict[str, Any]:
    """Returns a comparison (`report.comparison`), with the settings in which the groups differ; writes its figure.

    Args:
        runs: folders, at least two.
        group: runs with the same value of this setting are a group; None: runs with the same settings but the seed.
        against: label of the group that the others are held against; None: the one that searched at random, or the
            first.
        trials: of every run that count; None: as many as the shortest has.
        figure: `.svg`, `.png` or `.html` to write.

    Raises:
        RunFolderError: one is no run.
        UserError: fewer than two runs, one of them twice, other objectives, nothing that keeps the limits, no such
            setting or label, or a file of another kind.
    """
    if figure is not None and figure.suffix not in FORMS:
        raise UserError(f"--figure must end with one of {list(FORMS)}, but got {figure.name!r}.")
    paths = [path.resolve() for path in runs]
    if len(paths) < 2:
        raise UserError(f"compare must be given at least two runs, but got {len(paths)}.")
    twice = next((str(run) for run, path in zip(runs, paths, strict=True) if paths.count(path) > 1), None)
    if twice is not None:
        raise UserError(f"compare must be given every run once, but got {twice} again.")
    plans = [run_plan(run) for run in runs]
    settings = [flat(plan.config.to_dict()) for plan, _ in plans]
    labels, differing = grouped(settings, group)
    first = plans[0][0].objectives
    wanted = [(o.name, o.direction) for o in first]
    searched = []
    for run, label, (plan, folder) in zip(runs, labels, plans, strict=True):
        if [(o.name, o.direction) for o in plan.objectives] != wanted:
            names = [o.name for o in plan.objectives]
            raise UserError(
                f"compare must be given runs with the same objectives, but {runs[0]} has {[n for n, _ in wanted]} and "
                f"{run} has {names}."
            )
        searched.append(_searched(open_study(plan, folder), run, label))
    n = _budget(searched, trials)
    searched = [r.first(n) for r in searched]
    empty = next((r.run for r in searched if not np.isfinite(r.losses).all(axis=1).any()), None)
    if empty is not None:
        raise UserError(f"every run must have a trial that keeps the limits, but {empty} has none among its first {n}.")
    random = [i for i, s in enumerate(settings) if s.get("search.engine") == '"random"']
    chosen = _against(against, labels, random)
    at_random = all((i in random) for i, label in enumerate(labels) if label == chosen)
    content = comparison(searched, first, against=chosen, quality=_quality(first), random=at_random)
    content = {"grouped_by": group or "settings", "differ_in": differing, **content}
    if len(content["groups"]) == 1:
        content["sentences"].insert(0, "All runs are one group: there is only their spread to see.")
    for found in content["groups"]:
        values = {one["hypervolume"] for one in found["runs"]}
        if len(found["runs"]) > 1 and len(values) == 1:
            content["sentences"].append(
                f"The runs of {found['label']!r} end alike: their seeds change nothing, so they count as one run."
            )
    if group is not None and (mixed := sorted({k for k in differing if k != group})):
        content["sentences"].append(f"The runs also differ in {', '.join(mixed)}: an effect may be theirs.")
    if figure is not None:
        write_atomic(figure, comparison_figure(content, figure.suffix))
    return content


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Returns the settings of a configuration that make a difference: dotted key -> value as JSON."""
    out: dict[str, str] = {}
    for key, entry in value.items():
        name = f"{prefix}{key}"
        if name in NO_SETTING or name in NO_SETTING_BELOW:
            continue
        if isinstance(entry, Mapping) and entry:
            out.update(flat(entry, f"{name}."))
        else:
            out[name] = json.dumps(entry, default=str)
    return out


def grouped(settings: Sequence[Settings], group: str | None) -> tuple[list[str], list[str]]:
    """Returns the label of every run's group, and in which settings the runs differ.

    A label names as few settings as tell the groups apart, the engine first and without its key.

    Raises:
        UserError: no run has the setting.
    """
    keys = list(dict.fromkeys(key for s in settings for key in s))
    differing = [key for key in keys if len({s.get(key) for s in settings}) > 1]
    differing.sort(key=lambda key: (key != "search.engine", key.count("."), key))
    if group is not None:
        if group not in keys:
            raise UserError(f"--group must be a setting of the runs, but got {group!r}{nearest(group, keys)}.")
        return [_label(s, [group]) for s in settings], differing
    whole = [tuple(s.get(key) for key in differing) for s in settings]
    for count in range(len(differing) + 1):
        labels = [_label(s, differing[:count]) for s in settings]
        if len(set(labels)) == len(set(whole)):
            break
    return labels, differing


def _label(settings: Settings, keys: Sequence[str]) -> str:
    shown = []
    for key in keys:
        value = json.loads(settings[key]) if key in settings else "none"
        shown.append(str(value) if key == "search.engine" else f"{key}={value}")
    return ", ".join(shown) or "all runs"


def _searched(study: Study, run: Path, label: str) -> Searched:
    history = study.history()
    losses = np.array(history.losses)
    losses[~history.feasible] = np.nan
    patterns = [j for j, gene in enumerate(study.space.genes) if gene.name.rpartition(".")[2] == "sparsity"]
    rows = np.array([t.row for t in study.trials], dtype=np.uint8).reshape(-1, study.space.n_genes)
    active = study.space.active(rows)
    sparse = np.zeros(len(rows), dtype=bool)
    for j in patterns:
        sparse |= active[:, j] & np.array([c != "dense" for c in study.space.genes[j].choices])[rows[:, j]]
    nonzeros = np.array([t.metrics.get("nonzeros", np.nan) for t in study.trials])
    return Searched(str(run), label, losses, nonzeros, sparse)


def _budget(runs: Sequence[Searched], trials: int | None) -> int:
    """Returns how many trials of every run count."""
    shortest = min(runs, key=lambda r: len(r.losses))
    n = len(shortest.losses) if trials is None else trials
    if not 1 <= n <= len(shortest.losses):
        raise UserError(f"--trials must be 1 to {len(shortest.losses)}, which is what {shortest.run} has, but got {n}.")
    return n


def _against(against: str | None, labels: Sequence[str], random: Sequence[int]) -> str:
    if against is None:
        return labels[random[0]] if random else labels[0]
    known = list(dict.fromkeys(labels))
    if against not in known:
        raise UserError(f"--against must be one of the groups {known}, but got {against!r}{nearest(against, known)}.")
    return against


def _quality(objectives: Sequence[Objective]) -> int | None:
    """Returns the column of the first objective that is no cost: accuracy, or what the user's function gives."""
    costs = {*COST_METRICS, *DEVICE_METRICS}
    return next((j for j, o in enumerate(objectives) if o.metric not in costs), None)
