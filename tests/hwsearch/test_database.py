"""The record in a real PostgreSQL: the same as in a journal, whatever happens to the driver or the server."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy

from hwsearch.commands.run import run
from hwsearch.commands.status import status
from hwsearch.database import one_driver, open_database
from hwsearch.errors import MissingExtraError, RecordError, RunFolderError, UserError
from hwsearch.results import Evaluation, State
from hwsearch.study import Study, open_storage
from tests.hwsearch.runs import Silent, costs_only, write
from tests.hwsearch.test_kill import config, records, start
from tests.hwsearch.test_study import filled, latency, rows, same, study_of
from tests.postgres import Server

TRIALS = 24


def shortened(**changes: Any) -> dict[str, Any]:
    raw = config()
    return {**raw, "search": {**raw["search"], "trials": TRIALS, "options": {"population": 6}}, **changes}


def in_database(url: str, name: str = "costs") -> dict[str, list[tuple[int, str, list[float] | None]]]:
    """As `records`, of one run."""
    storage = open_database(url)
    return {
        study: [
            (t.user_attrs["proposal_index"], t.user_attrs["genotype"], t.values)
            for t in optuna.load_study(study_name=study, storage=storage).trials
        ]
        for study in optuna.get_all_study_names(storage)
        if study.startswith(f"{name}@")
    }


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run with a journal."""
    folder = tmp_path_factory.mktemp("journal")
    run(write(folder, shortened()), run_dir=folder / "run", observer=Silent())
    return folder / "run"


@pytest.mark.postgres
def test_a_killed_driver_continues_and_the_record_is_the_journals(
    tmp_path: Path, database: str, uninterrupted: Path
) -> None:
    path, folder = write(tmp_path, shortened(storage=database)), tmp_path / "run"
    driver, storage, until = start(path, folder, 1), open_database(database), time.monotonic() + 120
    with storage.engine.connect() as connection:
        while connection.exec_driver_sql("SELECT count(*) FROM trials").scalar_one() < 15:
            connection.rollback()
            assert driver.poll() is None, driver.communicate()[0]
            assert time.monotonic() < until
            time.sleep(0.005)
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    found = in_database(database)["costs@accuracy"]
    assert 7 <= len(found) < TRIALS
    assert [index for index, _, _ in found] == list(range(len(found)))
    seen = Silent()
    run(path, run_dir=folder, observer=seen)
    assert f"continuing after process {driver.pid}, which ended without finishing" in seen.notes
    assert in_database(database) == records(uninterrupted / "study.log")
    for name in ("front.csv", "front.json"):
        assert (folder / name).read_bytes() == (uninterrupted / name).read_bytes()
    assert not (folder / "study.log").exists()
    told = status(folder)
    assert (told["phase"], told["trials"], told["failed"]) == ("complete", TRIALS, 0)


@pytest.mark.postgres
def test_runs_in_one_database_do_not_mix(tmp_path: Path, database: str) -> None:
    few = {"engine": "random", "trials": 6}
    for seed in (1, 2):
        raw = costs_only(name=f"run{seed}", seed=seed, search=few, storage=database)
        run(write(tmp_path, raw), run_dir=tmp_path / f"run{seed}", observer=Silent())
        del raw["storage"]
        run(write(tmp_path, raw), run_dir=tmp_path / f"journal{seed}", observer=Silent())
    for seed in (1, 2):
        assert in_database(database, f"run{seed}") == records(tmp_path / f"journal{seed}/study.log")
    assert in_database(database, "run1") != in_database(database, "run2")

    path = write(tmp_path, costs_only(name="run1", seed=2, search=few, storage=database))
    with pytest.raises(RunFolderError, match=r"^runs in one database must have different names, but 'run1' is there"):
        run(path, run_dir=tmp_path / "other", observer=Silent())
    assert not (tmp_path / "other").exists()
    with one_driver(database, "run2"):
        path = write(tmp_path, costs_only(name="run2", seed=2, search=few, storage=database))
        message = f"'run2' in this database is held by hwsearch process {os.getpid()} on {socket.gethostname()}"
        with pytest.raises(RunFolderError, match=message):
            run(path, run_dir=tmp_path / "other", observer=Silent())
        assert not (tmp_path / "other").exists()
        with one_driver(database, "run3"):
            pass
    assert run(path, run_dir=tmp_path / "other", observer=Silent()).n_trials == 6  # the folder was lost, say


@pytest.mark.postgres
def test_each_record_is_one_transaction(tmp_path: Path, database: str) -> None:
    study = filled(storage := open_database(database))
    commits: list[object] = []
    sqlalchemy.event.listen(storage.engine, "commit", commits.append)
    study.record_measurement(4, "cpu", latency(1.0))
    study.record(5, Evaluation({}, seconds=0.0, error="ill"))
    assert len(commits) == 2
    same(study, study_of(open_database(database)))


@pytest.mark.postgres
def test_a_server_that_comes_back_and_one_that_does_not(
    postgres_server: Server, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with one_driver(database, "run"):
        study = study_of(open_database(database), devices=())
        study.start(rows(3))
        study.record(0, Evaluation({"accuracy": 0.5, "macs": 3.0, "parameters": 1.0}, seconds=0.0))
        postgres_server.stop()
        postgres_server.start()
        study.record(1, Evaluation({"accuracy": 0.5, "macs": 2.0, "parameters": 1.0}, seconds=0.0))
        postgres_server.stop()
        monkeypatch.setattr(optuna.storages._rdb.storage.time, "sleep", lambda seconds: None)  # between its attempts
        try:
            with pytest.raises(RecordError, match=r"^the record of trial 2 must be written, but: .* connection") as got:
                study.record(2, Evaluation({"accuracy": 0.5, "macs": 1.0, "parameters": 1.0}, seconds=0.0))
        finally:
            postgres_server.start()
    assert "\n" not in str(got.value)
    assert str(got.value).endswith("Nothing recorded is lost: the same command continues")
    again = study_of(open_database(database), devices=())
    assert [t.metrics["macs"] for t in again.trials] == [3.0, 2.0]
    assert study.trial(2).state == State.RUNNING


def test_a_database_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg")
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
    path = write(tmp_path, costs_only(storage=f"postgresql+psycopg://x:secret@127.0.0.1:{port}/none"))
    with pytest.raises(UserError, match=r"^storage must be a database .* Connection refused$") as caught:
        run(path, run_dir=tmp_path / "run", observer=Silent())
    assert "secret" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r"needs psycopg, .*: pip install 'hwsearch\[postgres\]'\.$"):
        run(path, run_dir=tmp_path / "run", observer=Silent())
    with pytest.raises(MissingExtraError):
        open_database("postgresql+psycopg://x@127.0.0.1/none")
    assert not (tmp_path / "run").exists()


@pytest.mark.postgres
def test_a_database_that_does_not_exist(postgres_server: Server, tmp_path: Path) -> None:
    path = write(tmp_path, costs_only(storage=postgres_server.url("nowhere")))
    with pytest.raises(UserError, match=r'^storage must be a database .* database "nowhere" does not exist$'):
        run(path, run_dir=tmp_path / "run", observer=Silent())
    assert not (tmp_path / "run").exists()


def test_one_driver_needs_no_database(tmp_path: Path) -> None:
    with one_driver(None, "run"), one_driver(None, "run"):
        study: Study = study_of(open_storage(None, tmp_path / "study.log"))
    assert study.trials == []
