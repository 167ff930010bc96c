"""The record of a run: Optuna studies on disk, arrays in memory, one writer."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.storages import BaseStorage

from hwsearch import pareto
from hwsearch.errors import RunFolderError
from hwsearch.journal import read_journal
from hwsearch.objectives import Objective
from hwsearch.results import Evaluation, History, Measurement, State
from hwsearch.study.storage import Record, Writer, open_storage, readable_storage, writing
from search_spaces.architecture import Architecture
from search_spaces.precision import GENE
from search_spaces.space import Population, SearchSpace

__all__ = ["Study", "Trial", "open_storage", "readable_storage"]
optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass
class Trial:
    """Everything known about one architecture of the run.

    Args:
        index: proposal index.
        row: (g,) canonical genotype.
        key: digest of the architecture.
        state: running, finished (all its metrics arrived) or failed.
        metrics, stds: by metric name (`accuracy`, `latency_ms@cpu`), in the user's direction and unit.
        seconds: wall time of its evaluation.
        error: one line, or None: its evaluation failed, or every device did.
        attributes: JSON-able extras: artifacts by device, engine attributes, environments.
        arrived: devices whose record arrived; None stands for the evaluation.
        refused: device -> why it could not measure this net.
    """

    index: int
    row: NDArray[np.uint8]
    key: str
    state: State = State.RUNNING
    metrics: dict[str, float] = field(default_factory=dict)
    stds: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    error: str | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    arrived: set[str | None] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)


class Study:
    """All trials of a run. The only writer of its storage; the caller holds the run's lock.

    One Optuna study, `<run>@accuracy`, holds what does not depend on a device; one per device,
    `<run>@<device>`, holds its objectives together with the former. A record is written once, whole, in one
    transaction, when it arrives. Running trials are known to this object alone.

    Args:
        name: of the run.
        space: its genes become Optuna parameters.
        objectives: what is optimised, in the config's order.
        limits: objectives with a limit (also ones that are only limits).
        devices: every device that trials are measured on.
        storage: read once, here. The path of a journal is read without Optuna, for a study that is `read_only`.
        admitted: device -> precisions that it measures, where the space has the gene `precision`; None: all.
        identity: what no continuation may change, JSON-able; kept in a database, where two runs may have one name by
            mistake. None where the folder of the run knows it.
        read_only: for looking at a run without its lock: nothing is written, and studies that are not there yet have
            no trials.
    """

    def __init__(
        self,
        name: str,
        space: SearchSpace,
        *,
        objectives: Sequence[Objective],
        limits: Sequence[Objective] = (),
        devices: Sequence[str] = (),
        storage: BaseStorage | Path,
        admitted: Mapping[str, Sequence[str]] | None = None,
        identity: Mapping[str, Any] | None = None,
        read_only: bool = False,
    ) -> None:
        self.name, self.space, self.read_only = name, space, read_only
        self._identity = None if identity is None else json.loads(json.dumps(identity))
        self.objectives, self.limits = tuple(objectives), tuple(limits)
        self.devices = tuple(devices)
        self._admitted = dict(admitted or {}) if GENE in space.index else {}
        self._left_out: set[str] = set()
        self.trials: list[Trial] = []  # in proposal order
        self._by_index: dict[int, Trial] = {}
        self._losses = np.zeros((0, len(self.objectives)))
        self._stds = np.zeros((0, len(self.objectives)))
        self._violations = np.zeros((0, len(self.limits)))
        self._rows = np.zeros((0, space.n_genes), dtype=np.uint8)
        self._state = np.zeros(0, dtype=np.int8)
        self._position: dict[int, int] = {}
        self._known: set[bytes] = set()
        self._open_architectures: dict[int, Architecture] = {}  # of running trials, by proposal index
        self._next_index = 0
        self._kept: list[Record] | None = None  # of `together`
        self._studies: dict[str | None, optuna.Study] = {}
        self._read(self._opened(storage))

    def _columns(self, device: str | None) -> list[Objective]:
        """Returns what an Optuna study has as values: never empty."""
        own = [o for o in self.objectives if o.device in {None, device}]
        return own or [Objective("seconds")]

    def _study_name(self, device: str | None) -> str:
        return f"{self.name}@{device or 'accuracy'}"

    def _opened(self, storage: BaseStorage | Path) -> dict[str | None, list[Mapping[str, Any]]]:
        """Returns the user attributes of all stored trials by device; opens the Optuna studies unless only reading."""
        devices = (None, *self.devices)
        if isinstance(storage, Path):
            assert self.read_only, "a study that is written must be given a storage"
            journal = read_journal(storage)
            if journal is None:
                return self._opened(open_storage(None, storage))
            found = {d: journal[self._study_name(d)] for d in devices if self._study_name(d) in journal}
            for device, study in found.items():
                self._check(device, study.directions, study.metric_names, study.space)
            return {device: study.trials for device, study in found.items()}
        stored = set(optuna.get_all_study_names(storage)) if self.read_only else None
        with nullcontext() if self.read_only else writing(f"the record of run {self.name!r}"):
            for device in devices:
                if stored is None or self._study_name(device) in stored:
                    self._studies[device] = self._open(storage, device)
        ids = {device: storage.get_study_id_from_name(self._study_name(device)) for device in self._studies}
        self._writer = Writer(storage, ids, self.space)
        return {
            device: [frozen.user_attrs for frozen in study.get_trials(deepcopy=False)]
            for device, study in self._studies.items()
        }

    def _open(self, storage: BaseStorage, device: str | None) -> optuna.Study:
        columns = self._columns(device)
        name, sampler = self._study_name(device), optuna.samplers.RandomSampler(seed=0)
        if name in optuna.get_all_study_names(storage):  # creating it once more would write to the storage
            study = optuna.load_study(study_name=name, storage=storage, sampler=sampler)
        else:
            directions = [o.direction for o in columns]
            study = optuna.create_study(study_name=name, storage=storage, directions=directions, sampler=sampler)
        stored = [d.name.lower() for d in study.directions]
        self._check(device, stored, study.metric_names, study.user_attrs.get("space"))
        if self.read_only:
            return study
        if self._identity is not None:
            kept = study.user_attrs.get("identity", self._identity)
            other = sorted(key for key in {*kept, *self._identity} if kept.get(key) != self._identity.get(key))
            if other:
                raise RunFolderError(
                    f"runs in one database must have different names, but {self.name!r} is there with another "
                    f"{', '.join(other)}."
                )
            if "identity" not in study.user_attrs:
                study.set_user_attr("identity", self._identity)
        if study.metric_names is None or "space" not in study.user_attrs:  # new, or its driver was killed here
            study.set_user_attr("space", self.space.fingerprint)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.set_metric_names([o.name for o in columns])
        return study

    def _check(
        self, device: str | None, directions: Sequence[str], names: Sequence[str] | None, space: str | None
    ) -> None:
        """Raises RunFolderError if a stored study has other objectives, or is of another space."""
        columns, study = self._columns(device), self._study_name(device)
        stored, current = list(directions), [str(o.direction) for o in columns]
        if names is not None:
            stored = [f"{direction} {name}" for direction, name in zip(stored, names, strict=True)]
            current = [f"{o.direction} {o.name}" for o in columns]
        if stored != current:
            raise RunFolderError(f"study {study!r} must have the objectives {current}, but was stored with {stored}.")
        if space not in (None, self.space.fingerprint):
            raise RunFolderError(
                f"study {study!r} must be of space {self.space.fingerprint}, but was stored with {space}."
            )

    def _read(self, stored: Mapping[str | None, Sequence[Mapping[str, Any]]]) -> None:
        """Fills the arrays from user attributes of trials by device."""
        found: dict[int, list[tuple[str | None, Mapping[str, Any]]]] = {}
        for device, trials in stored.items():
            for attrs in trials:
                if "proposal_index" in attrs:
                    found.setdefault(int(attrs["proposal_index"]), []).append((device, attrs))
        for index in sorted(found):
            records = dict(found[index])
            genotypes = {attrs["genotype"] for _, attrs in found[index]}
            if len(records) < len(found[index]) or len(genotypes) > 1:
                raise RunFolderError(
                    f"run {self.name!r} must have one driver, but its storage holds two records of trial {index}."
                )
            row = np.frombuffer(bytes.fromhex(genotypes.pop()), dtype=np.uint8)
            self._add(index, row, next(iter(records.values()))["key"])
            for device in (None, *self.devices):
                if device in records:
                    attrs = records[device]
                    self._merge(
                        index,
                        device,
                        Evaluation(
                            metrics=attrs["metrics"],
                            stds=attrs["stds"],
                            seconds=attrs["seconds"],
                            error=attrs["error"],
                            attributes=attrs["attributes"],
                        ),
                    )

    # -- what engines and reports see ----------------------------------------------------------------

    def history(self) -> History:
        """Returns all finished, failed and running trials in proposal order: read-only, as it is known now.

        Objectives of a finished trial on devices that do not measure it lie beyond the worst (`pareto.beyond`).
        """
        n = len(self.trials)
        losses = self._losses[:n]
        finished = self._state[:n] == State.FINISHED
        absent = np.isnan(losses) & finished[:, None]
        if absent.any():
            losses = pareto.beyond(losses, absent)
        return History(
            genotypes=_read_only(self._rows[:n]),
            losses=_read_only(losses),
            violations=_read_only(self._violations[:n]),
            state=_read_only(self._state[:n]),
            stds=_read_only(self._stds[:n]),
        )

    def front(self) -> list[Trial]:
        """Returns the feasible finished trials that no other one dominates, in proposal order."""
        history = self.history()
        losses = history.losses.copy()
        losses[~history.feasible] = math.nan
        return [trial for trial, member in zip(self.trials, pareto.front(losses), strict=True) if member]

    def places(self, row: NDArray[np.uint8]) -> tuple[str, ...]:
        """Returns the devices that measure a genotype (g,): those that admit its precision and are not left out."""
        return tuple(d for d in self._meant_for(row) if d not in self._left_out)

    def _meant_for(self, row: NDArray[np.uint8]) -> tuple[str, ...]:
        if not self._admitted:
            return self.devices
        at = self.space.index[GENE]
        precision = self.space.genes[at].choices[int(row[at])]
        return tuple(d for d in self.devices if precision in self._admitted[d])

    def leave_out(self, device: str) -> None:
        """Does without a device from now on, in this process: nothing waits for it, and it may measure later."""
        self._left_out.add(device)
        for trial in self.trials:
            self._judge(trial)

    def trial(self, index: int) -> Trial:
        """Returns the trial of a proposal index."""
        return self._by_index[index]

    def unmeasured(self) -> list[tuple[int, str]]:
        """Returns (proposal index, device) of evaluated trials whose measurement has not arrived."""
        return [
            (t.index, device)
            for t in self.trials
            if None in t.arrived and t.state == State.RUNNING
            for device in self.places(t.row)
            if device not in t.arrived
        ]

    def n_recorded(self) -> int:
        """Returns the number of trials whose evaluation is on record."""
        return sum(None in t.arrived for t in self.trials)

    # -- writing -------------------------------------------------------------------------------------

    def start(self, population: Population, *, attributes: Mapping[str, object] | None = None) -> list[int]:
        """Notes proposed architectures (k, g) as running, in memory only; returns their proposal indices.

        Raises:
            ValueError: one of them is known already; none is noted then.
        """
        new = {row.tobytes() for row in population}
        if len(new) < len(population) or not new.isdisjoint(self._known):
            raise ValueError("an engine must propose architectures that are not in the history, but got one again.")
        indices = []
        for row in population:
            index = self._next_index
            arch = self._open_architectures[index] = self.space.architecture(row)
            self._add(index, row, arch.key)
            self._by_index[index].attributes.update(attributes or {})
            indices.append(index)
        return indices

    @contextmanager
    def together(self) -> Iterator[None]:
        """Records made within are written at the end, a journal's with one flush; none of them counts before.

        In a database each is still a transaction of its own.
        """
        self._kept = []
        try:
            yield
        finally:
            kept, self._kept = self._kept, None
            self._write(kept)

    def record(self, index: int, evaluation: Evaluation) -> None:
        """Writes what does not depend on a device, once, in one transaction."""
        self._record(index, None, evaluation)

    def record_measurement(self, index: int, device: str, result: Mapping[str, Measurement] | str) -> None:
        """Writes a device's measurements (or one line saying why there are none), once, in one transaction."""
        if isinstance(result, str):
            evaluation = Evaluation(metrics={}, seconds=0.0, error=f"{device}: {result}")
        else:
            evaluation = Evaluation(
                metrics={f"{metric}@{device}": m.value for metric, m in result.items()},
                stds={f"{metric}@{device}": m.std for metric, m in result.items() if not math.isnan(m.std)},
                seconds=0.0,
                attributes={
                    f"measured@{device}": {
                        metric: {"repeats": m.repeats, "raw": m.raw, "unit": m.unit, "environment": dict(m.environment)}
                        for metric, m in result.items()
                    }
                },
            )
        self._record(index, device, evaluation)

    def _record(self, index: int, device: str | None, evaluation: Evaluation) -> None:
        if self.read_only:
            raise RuntimeError("a study must be opened for writing to record trials, but it was opened read-only.")
        trial = self._by_index[index]
        if device in trial.arrived or any((r.index, r.device) == (index, device) for r in self._kept or ()):
            raise ValueError(f"trial {index} must be recorded once per device, but got {device or 'accuracy'} again.")
        error = evaluation.error
        known = {**trial.metrics, **evaluation.metrics, "seconds": evaluation.seconds}
        values = [known.get(o.name, math.nan) for o in self._columns(device)]
        missing = [o.name for o, v in zip(self._columns(device), values, strict=True) if not math.isfinite(v)]
        if missing and error is None:
            error = f"{missing[0]} must be finite, but got {known.get(missing[0], 'nothing')}."
        attributes = dict(evaluation.attributes)
        if device is None:
            attributes = {**trial.attributes, **attributes}
        arch = self._open_architectures.get(index) or self.space.architecture(trial.row)
        finite = {k: v for k, v in evaluation.metrics.items() if math.isfinite(v)}
        record = Record(
            index,
            device,
            params=arch.to_dict(),
            values=None if error else values,
            user_attrs={
                "proposal_index": index,
                "genotype": trial.row.tobytes().hex(),
                "key": trial.key,
                "metrics": finite,
                "stds": dict(evaluation.stds),
                "seconds": evaluation.seconds,
                "error": error,
                "attributes": attributes,
            },
            evaluation=replace(evaluation, metrics=finite, error=error, attributes=attributes),
        )
        if self._kept is None:
            self._write([record])
        else:
            self._kept.append(record)

    def _write(self, records: Sequence[Record]) -> None:
        """Writes records in their order; then they count."""
        if records:
            self._writer.write(records)
        for record in records:
            self._merge(record.index, record.device, record.evaluation)

    # -- memory --------------------------------------------------------------------------------------

    def _add(self, index: int, row: NDArray[np.uint8], key: str) -> None:
        n = len(self.trials)
        if n == len(self._rows):
            grown = max(64, 2 * n)
            self._rows = _grow(self._rows, grown, 0)
            self._losses = _grow(self._losses, grown, np.nan)
            self._stds = _grow(self._stds, grown, np.nan)
            self._violations = _grow(self._violations, grown, np.nan)
            self._state = _grow(self._state, grown, State.RUNNING)
        trial = Trial(index=index, row=np.array(row, dtype=np.uint8), key=key)
        self.trials.append(trial)
        self._by_index[index] = trial
        self._position[index] = n
        self._known.add(trial.row.tobytes())
        self._rows[n] = row
        self._next_index = max(self._next_index, index + 1)

    def _merge(self, index: int, device: str | None, evaluation: Evaluation) -> None:
        trial, n = self._by_index[index], self._position[index]
        trial.arrived.add(device)
        trial.metrics.update(evaluation.metrics)
        trial.stds.update(evaluation.stds)
        trial.seconds += evaluation.seconds
        trial.attributes.update(evaluation.attributes)
        if device is None:
            trial.error = evaluation.error
        elif evaluation.error is not None:
            trial.refused[device] = evaluation.error
        for j, objective in enumerate(self.objectives):
            self._losses[n, j] = objective.loss(trial.metrics.get(objective.name, math.nan))
            self._stds[n, j] = trial.stds.get(objective.name, math.nan)
        self._judge(trial)

    def _judge(self, trial: Trial) -> None:
        """Sets the state of a trial: failed when its evaluation, or every device that it was meant for, failed."""
        if None not in trial.arrived:
            return
        meant = self._meant_for(trial.row)
        waiting = [d for d in meant if d not in trial.arrived and d not in self._left_out]
        measured = [d for d in meant if d in trial.arrived and d not in trial.refused]
        if trial.error is None and meant and not waiting and not measured:
            trial.error = next(iter(trial.refused.values()), None)
        if trial.error is not None:
            trial.state = State.FAILED
        elif not waiting and (measured or not meant):
            trial.state = State.FINISHED
        if trial.state != State.RUNNING:
            self._open_architectures.pop(trial.index, None)
        n = self._position[trial.index]
        self._state[n] = trial.state
        for j, limit in enumerate(self.limits):
            violation = limit.violation(trial.metrics.get(limit.name, math.nan))
            elsewhere = limit.device is not None and limit.device not in self.places(trial.row)
            self._violations[n, j] = 0.0 if math.isnan(violation) and elsewhere else violation


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    array.flags.writeable = False  # of the view alone
    return array


def _grow(array: NDArray[Any], rows: int, fill: float) -> NDArray[Any]:
    out = np.full((rows, *array.shape[1:]), fill, dtype=array.dtype)
    out[: len(array)] = array
    return out
