"""Where a run's record lies, and how records of trials get there: whole, in their order, a journal's with one flush."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from optuna.distributions import CategoricalDistribution, distribution_to_json
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from hwsearch.database import open_database, why
from hwsearch.errors import RecordError
from hwsearch.journal import created_trial
from hwsearch.results import Evaluation
from search_spaces.space import SearchSpace


def open_storage(url: str | None, journal: Path) -> BaseStorage:
    """Returns the storage of a run: an Optuna storage URL, or the journal file when there is none.

    Raises:
        UserError: the database cannot be opened.
    """
    if url is None:
        journal.parent.mkdir(parents=True, exist_ok=True)
        return FileStorage(Journal(str(journal)))
    return open_database(url)


def readable_storage(url: str | None, journal: Path) -> BaseStorage | Path:
    """Returns what a read-only study of a run is read from: the journal itself, or a database.

    Raises:
        UserError: the database cannot be opened.
    """
    return journal if url is None else open_storage(url, journal)


class Journal(JournalFileBackend):
    """A journal file whose appends run to their end: an interrupt inside of Optuna's file lock breaks the lock."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Appends and flushes; an interrupt that comes meanwhile is raised afterwards."""
        with _interrupts_later():
            super().append_logs(logs)


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """Holds back Ctrl-C and SIGTERM, where Python handles them, to the end of the block."""
    if threading.current_thread() is not threading.main_thread():  # handlers run in the main thread only
        yield
        return
    handlers = {n: h for n in (signal.SIGINT, signal.SIGTERM) if callable(h := signal.getsignal(n))}
    held: list[tuple[int, FrameType | None]] = []
    for number in handlers:
        signal.signal(number, lambda *call: held.append(call))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if held:
        came, frame = held[0]
        handlers[signal.Signals(came)](came, frame)


class FileStorage(JournalStorage):
    """Knows its file, into which whole batches of records are written at once."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(journal)
        self.journal = journal


@contextmanager
def writing(what: str) -> Iterator[None]:
    """Turns what a storage raises into a RecordError that names what was to be written."""
    try:
        yield
    except (OSError, StorageInternalError) as error:
        raise RecordError(what, why(error)) from error


@dataclass(frozen=True)
class Record:
    """What is written of one trial, by its evaluation (device None) or by a device.

    Args:
        index: proposal index.
        device: whose study it goes to.
        params: gene -> choice, of the active genes.
        values: of the study's objectives; None for a failed trial.
        user_attrs: everything else, JSON-able.
        evaluation: as it counts once it is written.
    """

    index: int
    device: str | None
    params: Mapping[str, Any]
    values: list[float] | None
    user_attrs: Mapping[str, Any]
    evaluation: Evaluation


class Writer:
    """Writes records into the Optuna studies of a run.

    Args:
        storage: of the run.
        ids: device -> Optuna's number of its study.
        space: its genes are Optuna's parameters.
    """

    def __init__(self, storage: BaseStorage, ids: Mapping[str | None, int], space: SearchSpace) -> None:
        self._storage, self._ids = storage, dict(ids)
        self._distributions = {g.name: CategoricalDistribution(list(g.choices)) for g in space.genes}
        self._as_json = {name: distribution_to_json(d) for name, d in self._distributions.items()}

    def write(self, records: Sequence[Record]) -> None:
        """Writes records in their order; in a database each is a transaction of its own.

        Raises:
            RecordError: the disk or the database does not take them.
        """
        with writing(f"the record of trial {records[0].index}"):
            if isinstance(self._storage, FileStorage):
                self._storage.journal.append_logs([self._line(record) for record in records])
            else:
                for record in records:
                    self._storage.create_new_trial(self._ids[record.device], template_trial=self._frozen(record))

    def _line(self, record: Record) -> dict[str, Any]:
        """Returns a record of the journal as Optuna writes it.

        Its own `create_new_trial` would also flush the disk for each and read each back: half of the time.
        """
        return created_trial(
            self._ids[record.device],
            state=int(_state(record)),
            values=record.values,
            at=datetime.now(tz=UTC),
            params={gene: self._distributions[gene].to_internal_repr(v) for gene, v in record.params.items()},
            distributions={gene: self._as_json[gene] for gene in record.params},
            user_attrs=record.user_attrs,
        )

    def _frozen(self, record: Record) -> FrozenTrial:
        """Returns what Optuna's `create_trial` makes, without its check of 45 genes that the space has checked."""
        now = datetime.now()
        return FrozenTrial(
            number=-1,
            trial_id=-1,
            state=_state(record),
            value=None,
            values=record.values,
            datetime_start=now,
            datetime_complete=now,
            params=dict(record.params),
            distributions={gene: self._distributions[gene] for gene in record.params},
            user_attrs=dict(record.user_attrs),
            system_attrs={},
            intermediate_values={},
        )


def _state(record: Record) -> TrialState:
    return TrialState.FAIL if record.values is None else TrialState.COMPLETE
