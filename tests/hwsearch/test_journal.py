"""The journal read without Optuna: it says what Optuna says, also of torn, damaged and foreign records."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest

from hwsearch.errors import RunFolderError
from hwsearch.journal import read_journal
from hwsearch.objectives import Objective
from hwsearch.results import Evaluation, Measurement
from hwsearch.study import Study, open_storage, readable_storage
from hwsearch.study.storage import Journal
from search_spaces.genes import Gene
from search_spaces.space import SearchSpace

SPACE = SearchSpace([Gene("kernel", (3, 5, 7)), Gene("op", ("conv", "sep"))])
OBJECTIVES = (Objective("accuracy", direction="maximize"), Objective("latency_ms", "cpu", unit="ms"))


def opened(
    path: Path, *, direct: bool, space: SearchSpace = SPACE, objectives: Sequence[Objective] = OBJECTIVES
) -> Study:
    storage = readable_storage(None, path) if direct else open_storage(None, path)
    return Study("run", space, objectives=objectives, devices=("cpu",), storage=storage, read_only=True)


def recorded(path: Path) -> None:
    """Six trials: one fails, one is refused by the device, one is not measured, and another run in the same file."""
    for name in ("run", "other"):
        study = Study(name, SPACE, objectives=OBJECTIVES, devices=("cpu",), storage=open_storage(None, path))
        study.start(SPACE.enumerate(), attributes={"engine": "X"})
        for i in (1, 0, 2, 3, 4):
            error = "RuntimeError: ill" if i == 2 else None
            study.record(i, Evaluation({"accuracy": i / 10}, 0.5, stds={"accuracy": 0.01}, error=error))
            if i in (0, 1):
                study.record_measurement(i, "cpu", {"latency_ms": Measurement(1.0 + i, 0.1, "ms")})
        study.record_measurement(3, "cpu", "gone")


def test_both_ways_of_reading_give_the_same_study(tmp_path: Path) -> None:
    path = tmp_path / "study.log"
    recorded(path)
    direct, by_optuna = opened(path, direct=True), opened(path, direct=False)
    assert len(direct.trials) == 5
    for a, b in zip(direct.trials, by_optuna.trials, strict=True):
        assert a.row.tolist() == b.row.tolist()
        for name in (
            "index",
            "key",
            "state",
            "metrics",
            "stds",
            "seconds",
            "error",
            "attributes",
            "arrived",
            "refused",
        ):
            assert getattr(a, name) == getattr(b, name), name
    assert direct.history().losses.tolist()[:2] == by_optuna.history().losses.tolist()[:2] == [[0.0, 1.0], [-0.1, 2.0]]
    assert direct.unmeasured() == by_optuna.unmeasured() == [(4, "cpu")]


@pytest.mark.parametrize("direct", [True, False])
def test_other_objectives_or_another_space_are_refused_both_ways(tmp_path: Path, direct: bool) -> None:
    path = tmp_path / "study.log"
    recorded(path)
    with pytest.raises(RunFolderError, match=r"'run@accuracy' must have the objectives \['minimize macs'\]"):
        opened(path, direct=direct, objectives=(Objective("macs"), OBJECTIVES[1]))
    with pytest.raises(RunFolderError, match=r"'run@accuracy' must be of space \w+, but was stored with"):
        opened(path, direct=direct, space=SearchSpace([Gene("kernel", (3, 5))]))


def test_a_torn_last_record_is_left_out_and_a_damaged_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "study.log"
    recorded(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    found = read_journal(path)
    assert found is not None and [len(found[f"other@{x}"].trials) for x in ("accuracy", "cpu")] == [5, 2]
    path.write_bytes(whole + b"{\n")
    assert read_journal(path) is not None
    lines = whole.splitlines(keepends=True)
    lines[7] = lines[7][:10] + b"\n"
    path.write_bytes(b"".join(lines))
    with pytest.raises(RunFolderError, match=r"study\.log must hold one record per line, but line 8 is damaged"):
        read_journal(path)


def test_what_only_optuna_can_follow_is_left_to_it(tmp_path: Path) -> None:
    path = tmp_path / "study.log"
    recorded(path)
    storage = open_storage(None, path)
    study = optuna.load_study(study_name="run@accuracy", storage=storage)
    storage.set_trial_system_attr(study.ask()._trial_id, "dashboard:note", "a note")
    assert read_journal(path) is not None  # a trial of somebody else, without our attributes, and a note on it
    assert len(opened(path, direct=True).trials) == 5
    optuna.delete_study(study_name="other@cpu", storage=storage)
    assert read_journal(path) is None
    assert len(opened(path, direct=True).trials) == 5


@pytest.mark.parametrize(("call", "first"), [("symlink", True), ("unlink", False)])
def test_control_c_within_the_lock_waits_for_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, first: bool
) -> None:
    """Where Optuna would say that it did not possess the lock, or that its file is not there."""
    journal, real = Journal(str(tmp_path / "study.log")), getattr(os, call)

    def interrupted(*arguments: str) -> None:
        if first:
            signal.raise_signal(signal.SIGINT)
        real(*arguments)
        if not first:
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, call, interrupted)
            journal.append_logs([{"op_code": 0}])
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    journal.append_logs([{"op_code": 1}])
    assert [record["op_code"] for record in journal.read_logs(0)] == [0, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["study.log"]


def test_records_are_written_beside_the_main_thread_too(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "study.log"))
    with ThreadPoolExecutor(1) as pool:
        pool.submit(journal.append_logs, [{"op_code": 0}]).result()
    assert len(list(journal.read_logs(0))) == 1
