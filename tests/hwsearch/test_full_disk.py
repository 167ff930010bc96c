"""A disk that is full: one line, nothing half-written, and the same command continues."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.storages.journal import JournalFileBackend

from hwsearch import runfolder
from hwsearch.commands.run import run
from hwsearch.errors import RecordError
from hwsearch.runfolder import write_atomic
from tests.hwsearch.runs import Silent, costs_only, write
from tests.hwsearch.test_kill import records

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
LINE = r" must be written, but: No space left on device\. Nothing recorded is lost: the same command continues$"


def config() -> dict[str, Any]:
    return costs_only(devices={"phone": {"runtime": "simulated"}}, objectives=["macs", "latency_ms@phone"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("whole")
    run(write(folder, config()), run_dir=folder / "run", observer=Silent())
    return records(folder / "run/study.log")


def full_after(n: int, real: Callable[..., Any], half: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that works `n` times; then a half of what it should write is written."""
    calls = iter(range(n))

    def limited(*arguments: Any) -> Any:
        if next(calls, None) is None:
            half(*arguments)
            raise FULL
        return real(*arguments)

    return limited


def half_a_line(backend: JournalFileBackend, logs: list[dict[str, Any]]) -> None:
    with Path(backend._file_path).open("ab") as file:
        file.write(str(logs).encode()[:100])


@pytest.mark.parametrize("n", [0, 20])
def test_the_journal_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, Any], n: int
) -> None:
    path, folder = write(tmp_path, config()), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(JournalFileBackend, "append_logs", full_after(n, JournalFileBackend.append_logs, half_a_line))
        with pytest.raises(RecordError, match=LINE):
            run(path, run_dir=folder, observer=Silent())
    assert (folder / "lock").read_text() == ""
    seen = Silent()
    run(path, run_dir=folder, observer=seen)
    assert any("torn last record" in note for note in seen.notes)
    assert records(folder / "study.log") == whole


@pytest.mark.parametrize("n", [2, 60])
def test_no_file_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, Any], n: int) -> None:
    """Of the configuration, of an artifact, of the front."""
    path, folder = write(tmp_path, config()), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(runfolder.os, "fsync", full_after(n, os.fsync, lambda *arguments: None))
        with pytest.raises(RecordError, match=LINE):
            run(path, run_dir=folder, observer=Silent())
    assert list(folder.rglob("*.part")) == []
    run(path, run_dir=folder, observer=Silent())
    assert records(folder / "study.log") == whole


def test_what_is_there_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomic(tmp_path / "front.csv", b"before")
    monkeypatch.setattr(runfolder.os, "fsync", full_after(0, os.fsync, lambda *arguments: None))
    with pytest.raises(RecordError, match=rf"^{tmp_path}/front\.csv{LINE}"):
        write_atomic(tmp_path / "front.csv", b"after")
    assert (tmp_path / "front.csv").read_bytes() == b"before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["front.csv"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", "size=48k", "none", str(disk)]
    if os.geteuid() != 0 or subprocess.call(["mount", *options], stderr=subprocess.DEVNULL) != 0:
        pytest.skip("only root may mount a small file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_is_really_full(tmp_path: Path, small_disk: Path, whole: dict[str, Any]) -> None:
    path, folder = write(tmp_path, config()), small_disk / "run"
    with pytest.raises(RecordError, match=LINE):
        run(path, run_dir=folder, observer=Silent())
    (small_disk / "rest").write_bytes(b"")
    with pytest.raises(OSError), (small_disk / "rest").open("wb") as file:
        file.write(b"x" * 2**17)
    with pytest.raises(RecordError, match=LINE):  # not even the lock
        run(path, run_dir=small_disk / "other", observer=Silent())
    assert not (small_disk / "other").exists()
    (small_disk / "rest").unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    run(path, run_dir=folder, observer=Silent())
    assert records(folder / "study.log") == whole
