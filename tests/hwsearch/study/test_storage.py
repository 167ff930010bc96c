"""A journal's appends: an interrupt that comes in the middle waits for their end."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from optuna.storages.journal import JournalFileBackend

from hwsearch.study.storage import Journal


@pytest.mark.parametrize("step", ["symlink", "fsync", "rename", "unlink"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_inside_an_append_comes_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: signal.Signals
) -> None:
    path, really, came = tmp_path / "study.log", getattr(os, step), []

    def interrupted(*args: Any) -> None:
        really(*args)
        signal.raise_signal(number)

    def handler(*_: object) -> None:
        came.append(path.read_text())
        raise KeyboardInterrupt

    before = signal.signal(number, handler)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, step, interrupted)
            with pytest.raises(KeyboardInterrupt):
                Journal(str(path)).append_logs([{"a": 1}, {"b": 2}])
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)
    assert came == ['{"a":1}\n{"b":2}\n']
    assert [p.name for p in tmp_path.iterdir()] == ["study.log"]  # no lock is left behind
    assert list(JournalFileBackend(str(path)).read_logs(0)) == [{"a": 1}, {"b": 2}]


def test_a_thread_appends_without_touching_signals(tmp_path: Path) -> None:
    journal, errors = Journal(str(tmp_path / "study.log")), []

    def append() -> None:
        try:
            journal.append_logs([{"a": 1}])
        except ValueError as error:  # what `signal.signal` raises outside of the main thread
            errors.append(error)

    thread = threading.Thread(target=append)
    thread.start()
    thread.join()
    assert not errors and list(journal.read_logs(0)) == [{"a": 1}]
