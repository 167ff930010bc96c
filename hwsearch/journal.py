"""The journal of a run: Optuna's file of one record per line, repaired before it is written, read without Optuna."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from hwsearch.errors import RunFolderError

# Optuna's operations (optuna.storages.journal._storage.JournalOperation) that a run writes ...
CREATE_STUDY, STUDY_USER_ATTR, STUDY_SYSTEM_ATTR, CREATE_TRIAL = 0, 2, 3, 4
TRIAL_SYSTEM_ATTR = 9
"""... and one that a dashboard writes (notes on a trial), which says nothing that a run needs."""
MAXIMIZE = 2
"""Of Optuna's directions."""


@dataclass
class StoredStudy:
    """One Optuna study of a journal.

    Args:
        name: of the study.
        directions: `minimize` or `maximize`, per value.
        space: fingerprint of the space; None where the driver was killed before it noted it.
        metric_names: of the values; None likewise.
        trials: user attributes of every trial, in the order of the records.
    """

    name: str
    directions: list[str]
    space: str | None = None
    metric_names: list[str] | None = None
    trials: list[Mapping[str, Any]] = field(default_factory=list)


def read_journal(path: Path) -> dict[str, StoredStudy] | None:
    """Returns the studies of a journal by name; None where it holds operations that only Optuna can follow.

    A tenth of the time of `JournalStorage`, which makes a trial and its distributions of every record. A torn last
    line, which a driver is just writing, is left out.

    Raises:
        RunFolderError: a record in the middle is damaged.
    """
    by_name: dict[str, StoredStudy] = {}
    studies: list[StoredStudy] = []  # by Optuna's number
    for record in _records(path):
        operation = record.get("op_code")
        if operation == CREATE_STUDY:
            name = record["study_name"]
            if name not in by_name:  # else Optuna refused it, and gave it no number
                directions = ["maximize" if d == MAXIMIZE else "minimize" for d in record["directions"]]
                by_name[name] = StoredStudy(name, directions)
                studies.append(by_name[name])
        elif operation == STUDY_USER_ATTR:
            studies[record["study_id"]].space = record["user_attr"].get("space", studies[record["study_id"]].space)
        elif operation == STUDY_SYSTEM_ATTR:
            names = record["system_attr"].get("study:metric_names")
            studies[record["study_id"]].metric_names = names or studies[record["study_id"]].metric_names
        elif operation == CREATE_TRIAL:
            studies[record["study_id"]].trials.append(record.get("user_attrs", {}))
        elif operation != TRIAL_SYSTEM_ATTR:
            return None
    return by_name


def created_trial(
    study: int,
    *,
    state: int,
    values: Sequence[float] | None,
    at: datetime,
    params: Mapping[str, float],
    distributions: Mapping[str, str],
    user_attrs: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns the record by which Optuna's journal notes a whole trial, as its `create_new_trial` makes it.

    Args:
        study: Optuna's number of the study.
        state: Optuna's number of the trial's state.
        values: None for a trial that failed.
        at: when, in UTC.
        params: name -> Optuna's number of the choice.
        distributions: name -> Optuna's JSON of the distribution.
        user_attrs: JSON-able.
    """
    single = values is not None and len(values) == 1
    return {
        "op_code": CREATE_TRIAL,
        "worker_id": "hwsearch",
        "study_id": study,
        "datetime_start": at.isoformat(timespec="microseconds"),
        "state": state,
        "value": values[0] if values is not None and single else None,
        "values": None if values is None or single else list(values),
        "datetime_complete": at.isoformat(timespec="microseconds"),
        "distributions": dict(distributions),
        "params": dict(params),
        "user_attrs": dict(user_attrs),
        "system_attrs": {},
        "intermediate_values": {},
    }


def _records(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the records of a journal, without a torn last one."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if isinstance(record, dict) and line.endswith(b"\n"):
                yield record
            elif file.read(1):
                raise damaged(path, number)


def damaged(path: Path, line: int) -> RunFolderError:
    """Returns the error for a record that nothing can be made of although others follow it."""
    return RunFolderError(f"{path} must hold one record per line, but line {line} is damaged.")


def repair_journal(path: Path) -> int:
    """Cuts a journal back to its last complete line and frees Optuna's own file lock; returns the bytes cut.

    A process that was killed while it appended leaves a torn line, after which every later append would fail.
    Call only while holding the run's lock.

    Raises:
        RunFolderError: a record in the middle is damaged; nothing is cut then.
    """
    path.with_name(path.name + ".lock").unlink(missing_ok=True)
    for left in path.parent.glob(f"{path.name}.lock*.rename"):
        left.unlink()
    if not path.exists():
        return 0
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    n_good = next((i for i, line in enumerate(lines) if not _is_record(line)), len(lines))
    if any(_is_record(line) for line in lines[n_good:]):
        raise damaged(path, n_good + 1)
    end = sum(len(line) for line in lines[:n_good])
    if end < len(content):
        with path.open("r+b") as file:
            file.truncate(end)
    return len(content) - end


def _is_record(line: bytes) -> bool:
    """Whether a line of a journal is complete: an object, and its end of line."""
    if not line.endswith(b"\n"):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
