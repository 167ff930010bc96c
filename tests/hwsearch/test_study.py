from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, distribution_to_json
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from hwsearch.errors import RecordError, RunFolderError, UserError
from hwsearch.journal import created_trial, repair_journal
from hwsearch.objectives import Objective
from hwsearch.results import Evaluation, Measurement, State
from hwsearch.study import Study, open_storage
from search_spaces.genes import Condition, Gene
from search_spaces.space import SearchSpace

SPACE = SearchSpace(
    [
        Gene("depth", (1, 2)),
        Gene("kernel", (3, 5, 7)),
        Gene("kernel2", (3, 5, 7), active_when=(Condition("depth", (2,)),)),
        Gene("op", ("conv", "sep")),
    ]
)
ACCURACY = Objective("accuracy", direction="maximize", unit="share")
MACS = Objective("macs")
CPU = Objective("latency_ms", "cpu", unit="ms")
TPU = Objective("latency_ms", "tpu", unit="ms")
SIZE = Objective("parameters", limit=50.0)


def study_of(storage: BaseStorage, *, devices: Sequence[str] = ("cpu",), **changes: Any) -> Study:
    given: dict[str, Any] = {
        "objectives": (ACCURACY, CPU, MACS) if devices == ("cpu",) else (ACCURACY, MACS),
        "limits": (SIZE,),
        "devices": devices,
    }
    name, space = changes.pop("name", "run"), changes.pop("space", SPACE)
    return Study(name, space, storage=storage, **{**given, **changes})


def journal(folder: Path) -> BaseStorage:
    return open_storage(None, folder / "study.log")


def evaluation(i: int, **changes: Any) -> Evaluation:
    given: dict[str, Any] = {
        "metrics": {"accuracy": 0.5 + i / 100, "macs": 1000.0 + i, "parameters": 40.0 + i},
        "seconds": 0.1 * i,
        "stds": {"accuracy": 0.01},
        "attributes": {"artifacts": {"cpu": f"digest{i}"}},
    }
    return Evaluation(**{**given, **changes})


def latency(value: float) -> dict[str, Measurement]:
    return {"latency_ms": Measurement(value, 0.02, "ms", repeats=9, raw=value * 2, environment={"threads": 1})}


def rows(n: int) -> Any:
    return SPACE.enumerate()[:n]


def same(one: Study, other: Study) -> None:
    """All that engines and reports see is equal."""
    a, b = one.history(), other.history()
    for name in ("genotypes", "losses", "violations", "state", "stds"):
        assert np.array_equal(getattr(a, name), getattr(b, name), equal_nan=name in {"losses", "violations", "stds"})
    assert len(one.trials) == len(other.trials)
    for x, y in zip(one.trials, other.trials, strict=True):
        for name in ("index", "key", "state", "metrics", "stds", "seconds", "error", "attributes", "arrived"):
            assert getattr(x, name) == getattr(y, name), name
    assert one.unmeasured() == other.unmeasured()


def filled(storage: BaseStorage) -> Study:
    """Six trials: finished, finished out of order, failed, failed on the device, not measured, running."""
    study = study_of(storage)
    study.start(rows(6), attributes={"engine": "X"})
    study.record(1, evaluation(1))
    study.record(0, evaluation(0))
    study.record_measurement(1, "cpu", latency(2.5))
    study.record(2, Evaluation({}, seconds=1.0, error="RuntimeError: ill"))
    study.record_measurement(0, "cpu", latency(3.5))
    study.record(3, evaluation(3))
    study.record_measurement(3, "cpu", "DeviceError: gone")
    study.record(4, evaluation(4))
    return study


# ---- what is kept --------------------------------------------------------------------------------------------------


def test_history_is_in_proposal_order() -> None:
    study = filled(InMemoryStorage())
    history = study.history()
    assert history.genotypes.tolist() == rows(6).tolist()
    assert history.state.tolist() == [
        State.FINISHED,
        State.FINISHED,
        State.FAILED,
        State.FAILED,
        State.RUNNING,
        State.RUNNING,
    ]
    nan = math.nan
    expected = [
        [-0.5, 3.5, 1000],
        [-0.51, 2.5, 1001],
        [nan, nan, nan],
        [-0.53, nan, 1003],
        [-0.54, nan, 1004],
        [nan, nan, nan],
    ]
    assert np.array_equal(history.losses, np.array(expected), equal_nan=True)
    assert np.array_equal(history.violations[:, 0], [-10.0, -9.0, nan, -7.0, -6.0, nan], equal_nan=True)
    assert np.array_equal(history.stds[0], [0.01, 0.02, nan], equal_nan=True)
    assert study.unmeasured() == [(4, "cpu")]
    assert study.n_recorded() == 5
    assert study.trial(3).error == "cpu: DeviceError: gone"
    assert [t.index for t in study.front()] == [0, 1]


def test_history_cannot_be_written_to() -> None:
    study = filled(InMemoryStorage())
    history = study.history()
    with pytest.raises(ValueError, match="read-only"):
        history.losses[0, 0] = 1.0
    study.record_measurement(4, "cpu", latency(1.0))
    assert study.history().state[4] == State.FINISHED


def test_what_is_read_again_equals_memory(tmp_path: Path) -> None:
    study = filled(journal(tmp_path))
    again = study_of(journal(tmp_path))
    assert [t.index for t in again.trials] == [0, 1, 2, 3, 4]  # the running one was never written
    assert again.trial(0).attributes["engine"] == "X"
    assert again.trial(1).attributes["measured@cpu"]["latency_ms"]["raw"] == 5.0
    study.trials.pop()
    same(study, again)
    assert again.start(rows(6)[5:]) == [5]
    again.record(5, evaluation(5))
    again.record_measurement(5, "cpu", latency(1.0))
    same(again, study_of(journal(tmp_path)))


def test_numbers_survive_bit_by_bit(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal(20) * 10.0 ** np.arange(-10, 10)
    study = study_of(journal(tmp_path))
    study.start(rows(20))
    for i, value in enumerate(values):
        study.record(i, evaluation(i, metrics={"accuracy": value, "macs": 1e290 * value, "parameters": 1 / 3}))
        study.record_measurement(i, "cpu", latency(abs(value)))
    same(study, study_of(journal(tmp_path)))


def test_arrays_grow_past_their_first_size() -> None:
    space = SearchSpace([Gene("a", tuple(range(200)))])
    study = study_of(InMemoryStorage(), space=space, devices=(), objectives=(MACS,))
    study.start(np.arange(150, dtype=np.uint8)[:, None])
    for i in range(150):
        study.record(i, evaluation(i))
    history = study.history()
    assert history.genotypes[:, 0].tolist() == list(range(150))
    assert history.losses[:, 0].tolist() == [1000.0 + i for i in range(150)]
    assert (history.state == State.FINISHED).all()


def test_records_are_written_once() -> None:
    study = filled(InMemoryStorage())
    with pytest.raises(ValueError, match=r"trial 0 must be recorded once per device, but got accuracy again\."):
        study.record(0, evaluation(0))
    with pytest.raises(ValueError, match=r"trial 0 must be recorded once per device, but got cpu again\."):
        study.record_measurement(0, "cpu", latency(1.0))


def test_an_architecture_is_tried_once() -> None:
    study = filled(InMemoryStorage())
    for again in (rows(1), np.concatenate([rows(7)[6:], rows(7)[6:]])):
        with pytest.raises(ValueError, match="an engine must propose architectures that are not in the history"):
            study.start(again)
    assert len(study.trials) == 6


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_an_objective_without_a_number_is_a_failure(value: float | None) -> None:
    study = study_of(InMemoryStorage())
    study.start(rows(1))
    metrics = {"macs": 1.0, "parameters": 1.0}
    study.record(0, evaluation(0, metrics=metrics if value is None else {**metrics, "accuracy": value}))
    trial = study.trial(0)
    assert trial.state == State.FAILED
    assert trial.error == f"accuracy must be finite, but got {'nothing' if value is None else value}."
    assert "accuracy" not in trial.metrics


def test_limits_decide_over_the_front() -> None:
    limits = (SIZE, Objective("macs", limit=1002))
    study = study_of(InMemoryStorage(), devices=(), objectives=(ACCURACY,), limits=limits)
    study.start(rows(4))
    for i in range(4):
        study.record(i, evaluation(i))
    assert [t.index for t in study.front()] == [2]
    study.start(rows(5)[4:])
    study.record(4, evaluation(4, metrics={"accuracy": 0.9, "macs": 1.0}))  # the other limit is not known
    assert study.trial(4).state == State.FINISHED
    assert [t.index for t in study.front()] == [2]


def test_equal_values_all_stay_on_the_front() -> None:
    study = study_of(InMemoryStorage(), devices=(), objectives=(ACCURACY, MACS))
    study.start(rows(3))
    for i in range(3):
        study.record(i, evaluation(7))
    assert [t.index for t in study.front()] == [0, 1, 2]


# ---- the layout in Optuna ------------------------------------------------------------------------------------------


def test_one_study_for_accuracy_and_one_per_device(tmp_path: Path) -> None:
    objectives = (ACCURACY, CPU, MACS, TPU)
    study = study_of(journal(tmp_path), objectives=objectives, devices=("cpu", "tpu"))
    study.start(rows(20)[17:19])
    study.record(0, evaluation(0))
    study.record_measurement(0, "tpu", latency(7.0))
    study.record_measurement(0, "cpu", latency(5.0))
    study.record(1, evaluation(1))
    study.record_measurement(1, "cpu", latency(6.0))

    storage = journal(tmp_path)
    names = {s.study_name for s in optuna.get_all_study_summaries(storage)}
    assert names == {"run@accuracy", "run@cpu", "run@tpu"}
    accuracy, cpu, tpu = (optuna.load_study(study_name=f"run@{n}", storage=storage) for n in ("accuracy", "cpu", "tpu"))
    assert accuracy.metric_names == ["accuracy", "macs"]
    assert cpu.metric_names == ["accuracy", "latency_ms@cpu", "macs"]
    assert tpu.metric_names == ["accuracy", "macs", "latency_ms@tpu"]
    assert [d.name for d in cpu.directions] == ["MAXIMIZE", "MINIMIZE", "MINIMIZE"]
    assert [t.values for t in accuracy.trials] == [[0.5, 1000.0], [0.51, 1001.0]]
    assert [t.values for t in cpu.trials] == [[0.5, 5.0, 1000.0], [0.51, 6.0, 1001.0]]
    assert [t.values for t in tpu.trials] == [[0.5, 1000.0, 7.0]]
    assert cpu.trials[0].params == SPACE.architecture(rows(20)[17]).to_dict()
    assert cpu.trials[0].user_attrs["key"] == study.trial(0).key
    assert study.trial(1).state == State.RUNNING  # waits for tpu
    assert study_of(storage, objectives=objectives, devices=("cpu", "tpu")).unmeasured() == [(1, "tpu")]


def test_a_record_is_one_line_of_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "study.log"
    study = study_of(journal(tmp_path))
    study.start(rows(1))
    before = path.read_text().count("\n")
    study.record(0, evaluation(0))
    assert path.read_text().count("\n") == before + 1
    study.record_measurement(0, "cpu", latency(1.0))
    assert path.read_text().count("\n") == before + 2


def test_records_made_together_are_written_at_once_and_count_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart, written = study_of(journal(tmp_path / "apart")), []
    append = JournalFileBackend.append_logs
    study = study_of(journal(tmp_path / "together"))
    monkeypatch.setattr(
        JournalFileBackend, "append_logs", lambda self, logs: (written.append(len(logs)), append(self, logs))
    )
    study.start(rows(3))
    with study.together():
        for i in (1, 0):
            study.record(i, evaluation(i))
        study.record_measurement(1, "cpu", "DeviceError: gone")
        with pytest.raises(ValueError, match="once per device"):
            study.record(1, evaluation(1))
        assert (written, study.n_recorded()) == ([], 0)
    assert (written, study.n_recorded()) == ([3], 2)
    with study.together():
        pass
    assert written == [3]
    with pytest.raises(KeyboardInterrupt), study.together():
        study.record(2, evaluation(2))
        raise KeyboardInterrupt
    assert written == [3, 1]
    apart.start(rows(3))
    for i in (1, 0):
        apart.record(i, evaluation(i))
    apart.record_measurement(1, "cpu", "DeviceError: gone")
    apart.record(2, evaluation(2))
    same(study, apart)
    same(study_of(journal(tmp_path / "together")), apart)


def test_what_cannot_be_written_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(backend: JournalFileBackend, logs: list[dict[str, Any]]) -> None:
        raise OSError(28, "No space left on device")

    study = study_of(journal(tmp_path))
    study.start(rows(2))
    monkeypatch.setattr(JournalFileBackend, "append_logs", full)
    with pytest.raises(RecordError, match="record of trial 0"), study.together():
        study.record(0, evaluation(0))
        study.record(1, evaluation(1))
    assert study.n_recorded() == 0


@pytest.mark.parametrize("values", [[1.0], [1.0, 0.5], None])
def test_a_line_of_the_journal_is_the_one_that_optuna_writes(tmp_path: Path, values: list[float] | None) -> None:
    path, at = tmp_path / "study.log", datetime(2026, 11, 22, tzinfo=UTC)
    storage = JournalStorage(JournalFileBackend(str(path)))
    directions = ["minimize"] * len(values or [0])
    optuna.create_study(study_name="run", storage=storage, directions=directions)
    choices, attributes = CategoricalDistribution([3, 5, 7]), {"proposal_index": 4}
    frozen = optuna.trial.create_trial(
        state=TrialState.COMPLETE if values else TrialState.FAIL,
        values=values,
        params={"kernel": 5},
        distributions={"kernel": choices},
        user_attrs=attributes,
    )
    frozen.datetime_start = frozen.datetime_complete = at
    storage.create_new_trial(0, template_trial=frozen)
    theirs = json.loads(path.read_text().splitlines()[-1])
    ours = created_trial(
        0,
        state=int(frozen.state),
        values=values,
        at=at,
        params={"kernel": 1},
        distributions={"kernel": distribution_to_json(choices)},
        user_attrs=attributes,
    )
    assert {**ours, "worker_id": theirs["worker_id"]} == theirs


def test_a_device_without_an_objective_is_recorded_too(tmp_path: Path) -> None:
    limits = (Objective("latency_ms", "cpu", limit=2.0),)
    given: dict[str, Any] = {"objectives": (TPU,), "limits": limits, "devices": ("cpu", "tpu")}
    study = study_of(journal(tmp_path), **given)
    study.start(rows(2))
    for i, ms in enumerate((1.5, 2.5)):
        study.record(i, evaluation(i))
        study.record_measurement(i, "cpu", latency(ms))
        study.record_measurement(i, "tpu", latency(9.0 - i))
    assert [t.index for t in study.front()] == [0]
    same(study, study_of(journal(tmp_path), **given))


def test_an_added_device_measures_what_is_there(tmp_path: Path) -> None:
    filled(journal(tmp_path))
    wider = study_of(journal(tmp_path), objectives=(ACCURACY, CPU, MACS, TPU), devices=("cpu", "tpu"))
    assert wider.unmeasured() == [(0, "tpu"), (1, "tpu"), (3, "tpu"), (4, "cpu"), (4, "tpu")]
    assert [t.state for t in wider.trials] == [
        State.RUNNING,
        State.RUNNING,
        State.FAILED,
        State.RUNNING,
        State.RUNNING,
    ]
    assert np.isnan(wider.history().losses[:, 3]).all()
    for index in (0, 1, 3):
        wider.record_measurement(index, "tpu", latency(1.0 + index))
    assert wider.trial(0).state == State.FINISHED
    assert wider.trial(3).state == State.FINISHED  # the other device could not measure it, this one could
    assert wider.trial(3).refused == {"cpu": "cpu: DeviceError: gone"}
    assert wider.trial(3).error is None
    same(wider, study_of(journal(tmp_path), objectives=(ACCURACY, CPU, MACS, TPU), devices=("cpu", "tpu")))


# ---- storages of other runs ----------------------------------------------------------------------------------------


def test_a_storage_of_another_space_or_other_objectives(tmp_path: Path) -> None:
    filled(journal(tmp_path))
    before = (tmp_path / "study.log").read_bytes()
    other = SearchSpace([*SPACE.genes, Gene("more", (1, 2))])
    with pytest.raises(
        RunFolderError, match=f"must be of space {other.fingerprint}, but was stored with {SPACE.fingerprint}"
    ):
        study_of(journal(tmp_path), space=other)
    with pytest.raises(
        RunFolderError,
        match=r"'run@accuracy' must have the objectives \['maximize accuracy'\], but was stored with "
        r"\['maximize accuracy', 'minimize macs'\]",
    ):
        study_of(journal(tmp_path), objectives=(ACCURACY, CPU))
    with pytest.raises(RunFolderError, match=r"'minimize parameters'\], but was stored with .* 'minimize macs'"):
        study_of(journal(tmp_path), objectives=(ACCURACY, CPU, Objective("parameters")))
    assert (tmp_path / "study.log").read_bytes() == before


def test_a_study_whose_driver_was_killed_while_making_it(tmp_path: Path) -> None:
    """Every prefix of the lines that make the studies leads to the same studies."""
    study_of(journal(tmp_path))
    path = tmp_path / "study.log"
    lines = path.read_bytes().splitlines(keepends=True)
    for n in range(len(lines)):
        path.write_bytes(b"".join(lines[:n]))
        study_of(journal(tmp_path))
        again = optuna.load_study(study_name="run@cpu", storage=journal(tmp_path))
        assert again.metric_names == ["accuracy", "latency_ms@cpu", "macs"]
        assert again.user_attrs["space"] == SPACE.fingerprint


def test_two_drivers_on_one_storage_are_noticed() -> None:
    storage = InMemoryStorage()
    one, two = study_of(storage), study_of(storage)
    one.start(rows(1))
    two.start(rows(2)[1:])
    one.record(0, evaluation(0))
    two.record(0, evaluation(1))
    with pytest.raises(RunFolderError, match="must have one driver, but its storage holds two records of trial 0"):
        study_of(storage)


def test_runs_share_a_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/runs.db"
    study = filled(open_storage(url, tmp_path / "unused.log"))
    study_of(open_storage(url, tmp_path / "unused.log"), name="other")
    study.trials.pop()
    same(study, study_of(open_storage(url, tmp_path / "unused.log")))
    assert not (tmp_path / "unused.log").exists()


@pytest.mark.parametrize("url", ["nonsense", "foo://x", "sqlite:////nowhere/at/all/x.db"])
def test_a_database_that_cannot_be_opened(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match=r"^storage must be a database that Optuna can open, but got: [^\n]+$"):
        open_storage(url, tmp_path / "study.log")


# ---- a driver killed while it appended -----------------------------------------------------------------------------


def test_a_torn_last_record_is_cut_at_every_byte(tmp_path: Path) -> None:
    filled(journal(tmp_path))
    path = tmp_path / "study.log"
    whole = path.read_bytes()
    start = whole.rfind(b"\n", 0, len(whole) - 1) + 1
    assert b'"key":"' in whole[start:].replace(b'"key": "', b'"key":"')
    for cut in range(start, len(whole)):
        path.write_bytes(whole[:cut])
        assert repair_journal(path) == cut - start
        assert path.read_bytes() == whole[:start]
    path.write_bytes(whole)
    assert repair_journal(path) == 0
    assert path.read_bytes() == whole
    for tail in (b"\0" * 300, b"\0\0\n\0", b"{\n", b'"text"\n', b"\xff\n"):
        path.write_bytes(whole + tail)
        assert repair_journal(path) == len(tail)
        assert path.read_bytes() == whole


def test_after_a_repair_the_run_goes_on(tmp_path: Path) -> None:
    filled(journal(tmp_path))
    path = tmp_path / "study.log"
    path.write_bytes(path.read_bytes()[:-5])
    assert repair_journal(path) > 0
    study = study_of(journal(tmp_path))
    assert [t.index for t in study.trials] == [0, 1, 2, 3]
    assert study.start(rows(6)[4:5]) == [4]
    study.record(4, evaluation(4))
    same(study, study_of(journal(tmp_path)))


def test_a_record_damaged_in_the_middle_is_not_cut_away(tmp_path: Path) -> None:
    filled(journal(tmp_path))
    path = tmp_path / "study.log"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[7] = lines[7][:10] + b"\n"
    path.write_bytes(b"".join(lines))
    with pytest.raises(RunFolderError, match=r"study\.log must hold one record per line, but line 8 is damaged"):
        repair_journal(path)
    assert path.read_bytes() == b"".join(lines)


def test_locks_that_optuna_left_are_freed(tmp_path: Path) -> None:
    filled(journal(tmp_path))
    path = tmp_path / "study.log"
    (tmp_path / "study.log.lock").symlink_to("study.log")
    (tmp_path / "study.log.lock1234.rename").symlink_to("gone")
    (tmp_path / "other.lock").write_text("x")
    assert repair_journal(path) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other.lock", "study.log"]
    study_of(journal(tmp_path)).start(rows(6)[5:])  # does not wait for anybody
    assert repair_journal(tmp_path / "nowhere.log") == 0
