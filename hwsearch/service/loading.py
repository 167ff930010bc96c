"""Catalogs from predictor files and run folders. Everything is read, nothing is written or executed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import yaml

from hwsearch.config import RunConfig
from hwsearch.errors import UserError
from hwsearch.net_scores import NetScores
from hwsearch.objectives import COST_METRICS, Direction, Objective
from hwsearch.runfolder import RunFolder
from hwsearch.service.catalog import Catalog, Entry, Trials
from hwsearch.study import Study, readable_storage
from predictors.base import Sources
from predictors.files import load as load_predictor
from predictors.files import read_card
from predictors.training_range import TrainingRange
from search_spaces.space import SearchSpace
from search_spaces.supernet import Supernet


class RunPlan(Protocol):
    """What a service needs of a run; `build.Plan` is one."""

    @property
    def config(self) -> RunConfig:
        """Name and storage of the run."""
        ...

    @property
    def space(self) -> SearchSpace:
        """Its search space."""
        ...

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What it optimises."""
        ...

    @property
    def limits(self) -> tuple[Objective, ...]:
        """What it limits."""
        ...

    @property
    def measured(self) -> tuple[str, ...]:
        """Devices that its trials are measured on."""
        ...

    @property
    def admitted(self) -> dict[str, tuple[str, ...]]:
        """Device -> precisions that it measures."""
        ...

    def supernet(self, *, meta: bool = False) -> Supernet:
        """Its super-network, here for layer costs only."""
        ...


NETWORK = "network"
"""Place in a predictor's card notes of the configuration whose networks its layer costs are of."""
PlanOf = Callable[[Mapping[str, Any], str], RunPlan]
"""(configuration, where it is from) -> plan. Names become objects in `build` only, so it is handed in."""


def load(paths: Sequence[Path], *, plan_of: PlanOf, config: Path | None = None) -> Catalog:
    """Returns the catalog of predictor files and run folders, all of one space. Nothing in them is executed.

    Args:
        paths: predictor files and run folders; of a run its predictors, exact costs and stored trials are taken.
        plan_of: makes a plan of a run's configuration.
        config: a configuration whose super-network gives the layer costs that predictors in files read; by default
            that which a file names itself.

    Raises:
        UserError or ValueError: no path, not readable, two spaces, or two answers for one metric and device.
    """
    if not paths:
        raise UserError("there must be at least one predictor file or run folder, but got none.")
    folders = {path: RunFolder(path).require() for path in paths if path.is_dir()}
    plans = {path: plan_of(folder.load_config(), str(folder.config)) for path, folder in folders.items()}
    helpers = list(plans.values()) if config is None else [plan_of(_yaml(config), str(config))]
    if not helpers:
        named = ((path, read_card(path).notes.get(NETWORK)) for path in paths)
        helpers = [plan_of(network, str(path)) for path, network in named if isinstance(network, dict)][:1]
    supernet = helpers[0].supernet(meta=True) if helpers else None
    builder = _Builder(supernet)
    for path in paths:
        if path in plans:
            builder.add_run(path, plans[path], folders[path])
        else:
            builder.add_file(path)
    return builder.catalog()


def _yaml(path: Path) -> Mapping[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path} must be a configuration, but: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path} must hold a mapping, but holds {type(raw).__name__}.")
    return raw


class _Builder:
    """Collects entries and trials, and checks that they belong together."""

    def __init__(self, supernet: Supernet | None) -> None:
        self.supernet = supernet
        self.scores = None if supernet is None else NetScores(supernet)
        self.space: SearchSpace | None = None
        self.first: Path | None = None
        self.entries: dict[str, Entry] = {}
        self.trials: Trials | None = None
        self.units: dict[str, str] = {}
        self.directions: dict[str, Direction] = {}

    def catalog(self) -> Catalog:
        assert self.space is not None
        trials = self.trials or Trials.empty(self.space.n_genes)
        return Catalog(self.space, self.entries, trials, self.units, self.directions, self.supernet)

    def add_file(self, path: Path) -> None:
        layers = None if self.supernet is None else self.supernet.layers
        loaded = load_predictor(path, sources=Sources(layers=layers, scores=self.scores))
        card, predictor = loaded.card, loaded.predictor
        self._check_space(path, predictor.space)
        self._add(
            path,
            Entry(
                metric=card.metric,
                device=card.device,
                unit=card.unit,
                kind="predicted",
                model=predictor.kind,
                predictor=predictor,
                range=TrainingRange.from_notes(predictor.space, card.notes),
                n_rows=card.n_rows,
                report=card.report,
            ),
        )

    def add_run(self, path: Path, plan: RunPlan, folder: RunFolder) -> None:
        self._check_space(path, plan.space)
        wanted = {o.name: o for o in (*plan.limits, *plan.objectives)}
        self.directions.update({o.name: o.direction for o in plan.objectives})
        self.units.update({o.name: o.unit for o in wanted.values()})
        for file in sorted(folder.predictors.glob("*.safetensors")):
            self.add_file(file)
        for metric, unit in COST_METRICS.items():
            if metric not in self.entries:
                entry = Entry(metric, None, unit, "exact", "layer costs", default=metric in wanted)
                self._add(path, entry)
        if self.trials is not None:
            raise UserError(f"at most one run may be given, but {path} is a second one.")
        self.trials = _trials(plan, folder)

    def _check_space(self, path: Path, space: SearchSpace) -> None:
        if self.space is None:
            self.space, self.first = space, path
        elif self.space.fingerprint != space.fingerprint:
            raise UserError(
                f"{path} must be of the same search space as {self.first} ({self.space.fingerprint}), "
                f"but it is of another ({space.fingerprint})."
            )
        if self.supernet is not None and self.supernet.space.fingerprint != space.fingerprint:
            raise UserError(
                f"{path} must be of the configuration's search space ({self.supernet.space.fingerprint}), "
                f"but it is of another ({space.fingerprint})."
            )

    def _add(self, path: Path, entry: Entry) -> None:
        if entry.name in self.entries:
            raise UserError(f"there must be one predictor of {entry.name}, but {path} is a second one.")
        self.entries[entry.name] = entry
        self.units[entry.name] = entry.unit


def _trials(plan: RunPlan, folder: RunFolder) -> Trials:
    """Returns the trials of a run that have any metric; the storage is only read."""
    if plan.config.storage is None and not folder.journal.is_file():
        return Trials.empty(plan.space.n_genes)
    study = Study(
        plan.config.name,
        plan.space,
        objectives=plan.objectives,
        limits=plan.limits,
        devices=plan.measured,
        admitted=plan.admitted,
        storage=readable_storage(plan.config.storage, folder.journal),
        read_only=True,
    )
    found = [t for t in study.trials if t.metrics and t.error is None]
    if not found:
        return Trials.empty(plan.space.n_genes)
    names = tuple(dict.fromkeys(name for t in found for name in t.metrics))
    front = {t.index for t in study.front()}
    return Trials(
        rows=np.stack([t.row for t in found]),
        names=names,
        values=np.array([[t.metrics.get(n, np.nan) for n in names] for t in found]),
        stds=np.array([[t.stds.get(n, np.nan) for n in names] for t in found]),
        indices=tuple(t.index for t in found),
        on_front=np.array([t.index in front for t in found]),
    )
