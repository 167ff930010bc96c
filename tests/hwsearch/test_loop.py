from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.storages import InMemoryStorage

from hwsearch.distribution.executor import Executor
from hwsearch.distribution.jobs import Evaluated, EvaluateJob, Limits, MeasureJob
from hwsearch.distribution.serial import SerialExecutor
from hwsearch.engines.base import SearchEngine
from hwsearch.engines.random_search import RandomSearch
from hwsearch.loop import TAKEN_UP_AT_ONCE, Search
from hwsearch.objectives import Objective
from hwsearch.results import History, Measurement, Outlook, SearchProgress, State
from hwsearch.runfolder import RunFolder
from hwsearch.study import Study
from search_spaces.genes import Gene
from search_spaces.space import Population, SearchSpace
from tests.contracts.fake_workers import FakeFactory

SPACE = SearchSpace([Gene("a", tuple(range(8))), Gene("b", tuple(range(8)))])
DEVICES = ("x", "y")
OBJECTIVES = (Objective("accuracy", direction="maximize"), *(Objective("latency_ms", d) for d in DEVICES))


class Seen(RandomSearch):
    """Random search that keeps what it was shown."""

    def __init__(self, edit: Callable[[Population], Population] = lambda rows: rows) -> None:
        super().__init__(SPACE, n_objectives=3)
        self.histories: list[History] = []
        self.edit = edit

    def propose(self, history: History, count: int) -> Population:
        self.histories.append(history.only(np.arange(len(history))))
        return self.edit(super().propose(history, count))


def study_of(storage: Any = None) -> Study:
    return Study("run", SPACE, objectives=OBJECTIVES, devices=DEVICES, storage=storage or InMemoryStorage())


def search_of(folder: Path, *, engine: SearchEngine | None = None, study: Study | None = None, **fake: Any) -> Search:
    factory = FakeFactory(str(folder), devices=DEVICES, **fake)
    executor = SerialExecutor(factory, None, devices=[(d, True) for d in DEVICES])
    return Search(study or study_of(), executor, engine or Seen(), folder=RunFolder(folder / "run"))


def test_one_after_another_knows_all_before_it(tmp_path: Path) -> None:
    engine = Seen()
    search = search_of(tmp_path, engine=engine)
    result = search.run(7)
    assert (result.n_trials, result.n_failed, result.exhausted) == (7, 0, False)
    assert [len(h) for h in engine.histories] == list(range(7))
    assert all((h.state == State.FINISHED).all() for h in engine.histories)
    assert all(np.isfinite(h.losses).all() for h in engine.histories)


def test_progress(tmp_path: Path) -> None:
    seen: list[SearchProgress] = []
    search = search_of(tmp_path, fails=frozenset({1}), lane_fails=frozenset({3}))
    result = search.run(5, observe=seen.append)
    assert (result.n_trials, result.n_failed) == (5, 2)
    last = seen[-1]
    assert (last.n_trials, last.n_done, last.n_failed, last.n_running) == (5, 5, 2, 0)
    assert last.latest_error == "y: RuntimeError: y is broken"
    assert last.eta_s == 0
    assert [p.n_done for p in seen] == sorted(p.n_done for p in seen)
    assert {t.index: t.error for t in search.study.trials if t.error} == {
        1: "ValueError: network 1 is ill",
        3: "x: RuntimeError: x is broken",
    }


def test_an_engine_that_has_no_more_ends_the_search(tmp_path: Path) -> None:
    result = search_of(tmp_path).run(1000)
    assert (result.n_trials, result.exhausted) == (64, True)


def test_an_engine_that_gives_less_than_asked_is_at_its_end(tmp_path: Path) -> None:
    engine = Seen(lambda rows: rows[: max(0, 3 - len(engine.histories))])
    result = search_of(tmp_path, engine=engine).run(10)
    assert (result.n_trials, result.exhausted) == (2, True)
    assert len(engine.histories) == 3


def test_an_engine_that_repeats_itself_is_stopped(tmp_path: Path) -> None:
    engine = Seen(lambda rows: np.zeros_like(rows))
    with pytest.raises(ValueError, match="an engine must propose architectures that are not in the history"):
        search_of(tmp_path, engine=engine).run(3)


def interrupted(folder: Path, storage: Any, *, devices: tuple[str, ...], n: int) -> Study:
    """A study whose trials were evaluated, and measured on these devices only; their artifacts are stored."""
    study = study_of(storage)
    search = search_of(folder, study=study)
    executor = search.executor
    search._propose(n)
    while executor._evaluations:
        executor._measurements = {d: type(q)() for d, q in executor._measurements.items()}  # the driver is killed
        for result in executor.wait(0.0):
            search._evaluated(result)  # type: ignore[arg-type]
    for trial in study.trials:
        for device in devices:
            study.record_measurement(trial.index, device, {"latency_ms": Measurement(1.0, 0.1, "ms")})
    return study_of(storage)


def test_a_network_made_again_for_one_device_is_not_measured_again_on_another(tmp_path: Path) -> None:
    """With several workers the evaluation may be there before the measuring that was submitted with it."""
    study = interrupted(tmp_path, InMemoryStorage(), devices=(), n=1)
    del study.trial(0).attributes["artifacts"]["y"]
    search = search_of(tmp_path, study=study)
    search._left.extend(study.unmeasured())
    search._take_up()
    executor = search.executor
    assert {d: len(q) for d, q in executor._measurements.items()} == {"x": 1, "y": 0}
    (waiting,) = executor._evaluations
    assert isinstance(waiting.job, EvaluateJob)
    evaluation, artifacts = FakeFactory(str(tmp_path), devices=DEVICES).accuracy(None).evaluate(waiting.job)
    search._evaluated(Evaluated(waiting.job, evaluation, artifacts))
    assert {d: len(q) for d, q in executor._measurements.items()} == {"x": 1, "y": 1}


@pytest.mark.parametrize("gone", ["nothing", "x", "y", "all"])
def test_what_was_not_measured_is_measured_once(tmp_path: Path, gone: str) -> None:
    storage = InMemoryStorage()
    study = interrupted(tmp_path, storage, devices=(), n=3)
    assert study.unmeasured() == [(i, d) for i in range(3) for d in DEVICES]
    if gone in DEVICES:
        for trial in study.trials:
            trial.attributes["artifacts"] = {d: a for d, a in trial.attributes["artifacts"].items() if d != gone}
    elif gone == "all":
        for trial in study.trials:
            trial.attributes["artifacts"] = {}
    engine = Seen()
    search = search_of(tmp_path, engine=engine, study=study)
    result = search.run(5)
    assert (result.n_trials, result.n_failed) == (5, 0)
    assert (engine.histories[0].state == State.FINISHED).all()  # nothing is proposed before that is known
    assert len(engine.histories[0]) == 3
    again = study_of(storage)
    assert [t.state for t in again.trials] == [State.FINISHED] * 5


def test_an_artifact_that_cannot_be_made_again_is_a_failure_of_its_device(tmp_path: Path) -> None:
    storage = InMemoryStorage()
    study = interrupted(tmp_path, storage, devices=("x",), n=2)
    study.trial(1).attributes["artifacts"] = {}
    result = search_of(tmp_path, study=study, fails=frozenset({1})).run(2)
    assert (result.n_trials, result.n_failed) == (2, 0)
    assert study.trial(1).refused == {"y": "y: ValueError: network 1 is ill"}
    assert study_of(storage).trial(1).refused == {"y": "y: ValueError: network 1 is ill"}


def test_earlier_trials_are_taken_up_a_few_at_a_time(tmp_path: Path) -> None:
    storage = InMemoryStorage()
    study = interrupted(tmp_path, storage, devices=(), n=30)
    waiting: list[int] = []

    class Watched(SerialExecutor):
        def wait(self, timeout_s: float = 1.0) -> list[Any]:
            waiting.append(self.n_waiting)
            return super().wait(timeout_s)

    executor: Executor = Watched(
        FakeFactory(str(tmp_path), devices=DEVICES), None, devices=[(d, True) for d in DEVICES], limits=Limits()
    )
    Search(study, executor, Seen(), folder=RunFolder(tmp_path / "run")).run(30)
    assert max(waiting) <= TAKEN_UP_AT_ONCE
    assert (study.history().state == State.FINISHED).all()


def test_reference_values_are_frozen_and_used(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.freeze_reference("x", {"m": Measurement(1.0, 0.0, "ms", environment={"card_reference_ms": 0.75})})
    search = search_of(tmp_path)
    assert search.executor.references == {"x": 0.75}
    search.run(1)
    measured = {d: search.study.trial(0).attributes[f"measured@{d}"]["latency_ms"] for d in DEVICES}
    assert measured["x"]["environment"]["reference"] == 0.75
    assert measured["y"]["environment"]["reference"] is None


def test_jobs_of_a_measuring_name_their_device(tmp_path: Path) -> None:
    search = search_of(tmp_path)
    search.run(1)
    with pytest.raises(ValueError, match="device must be one of"):
        search.executor.submit(MeasureJob("z", (), ()))


class Doubtful(RandomSearch):
    """Expects less and less."""

    def outlook(self, history: History, count: int) -> Outlook:
        return Outlook(gain=1.0 / (1 + len(history)), trust=1.0, feasible=1.0)


def test_a_search_ends_when_little_is_expected(tmp_path: Path) -> None:
    seen: list[SearchProgress] = []
    result = search_of(tmp_path, engine=Doubtful(SPACE, n_objectives=3)).run(30, stop_below=0.2, observe=seen.append)
    assert result.n_trials == 5
    assert result.stopped == "the expected gain of 0.17 is below search.stop_below = 0.2"
    assert not result.exhausted
    assert seen[-1].outlook is not None
    assert seen[-1].n_running == 0


def test_a_search_ends_when_its_time_is_over(tmp_path: Path) -> None:
    result = search_of(tmp_path).run(30, max_minutes=1e-9)
    assert result.n_trials == 0
    assert result.stopped == "search.max_minutes = 1e-09 are over"
    assert search_of(tmp_path).run(3, stop_below=0.5, max_minutes=60.0).stopped is None
