"""The policy of executors, step by step: nothing here runs, so that every order can be played."""

from __future__ import annotations

from typing import Any

import numpy as np

from hwsearch.distribution.executor import MOVES, Executor
from hwsearch.distribution.jobs import (
    Evaluated,
    EvaluateJob,
    HostLost,
    Job,
    Limits,
    Measured,
    MeasureJob,
    Slot,
    WorkerDied,
)
from hwsearch.results import Evaluation
from tests.contracts.fake_workers import artifact


class Played(Executor):
    """Jobs end when the test says so."""

    def __init__(self, slots: list[Slot], limits: Limits) -> None:
        super().__init__(slots, limits)
        self.outcomes: list[tuple[Slot, Any]] = []
        self.replaced: list[str] = []
        self.coming_up: set[str] = set()

    def _start(self, slot: Slot, job: Job) -> None:
        pass

    def _collect(self, timeout_s: float) -> list[tuple[Slot, Any]]:
        done, self.outcomes = self.outcomes, []
        return done

    def _replace(self, slot: Slot) -> None:
        self.replaced.append(slot.name)

    def _starting(self, slot: Slot) -> bool:
        return slot.name in self.coming_up

    def close(self) -> None:
        pass

    # -- what the tests use --------------------------------------------------------------------------

    def running(self) -> dict[str, tuple[int, ...]]:
        """Schedules, and returns slot -> indices of its job."""
        self.wait(0.0)
        return {s.name: _indices(s.job) for s in self.slots if s.job is not None}

    def end(self, name: str, outcome: Any = None) -> list[Any]:
        slot = next(s for s in self.slots if s.name == name)
        if outcome is None:
            outcome = (Evaluation({}, 0.0), {})
            if isinstance(slot.job, MeasureJob):
                outcome = [{} for _ in slot.job.indices]
        self.outcomes.append((slot, outcome))
        return self.wait(0.0)


def _indices(job: Job) -> tuple[int, ...]:
    return (job.index,) if isinstance(job, EvaluateJob) else job.indices


def played(*, hosts: tuple[str | None, ...] = ("h", "h"), lanes: tuple[Slot, ...] = (), **limits: Any) -> Played:
    accuracy = [Slot(f"w{i}", host) for i, host in enumerate(hosts)]
    return Played([*accuracy, *lanes], Limits(**{"lane_batch": 3, "lane_wait_s": 1e9, "timeout_s": None, **limits}))


def lane(name: str, host: str | None = "h", *, exclusive: bool = True) -> Slot:
    return Slot(name, host, device=name, exclusive=exclusive)


def evaluate(executor: Executor, *indices: int) -> None:
    for index in indices:
        executor.submit(EvaluateJob(index, np.zeros(1, np.uint8)))


def measure(executor: Executor, device: str, *indices: int) -> None:
    for index in indices:
        executor.submit(MeasureJob(device, (index,), (artifact(index),)))


def test_a_lane_waits_for_a_whole_batch_while_more_may_come() -> None:
    executor = played(lanes=(lane("cpu"),))
    evaluate(executor, 0, 1, 2)
    measure(executor, "cpu", 7, 8)
    assert executor.running() == {"w0": (0,), "w1": (1,)}
    executor.end("w0")
    assert executor.running() == {"w0": (2,), "w1": (1,)}
    assert executor.free == 0


def test_a_full_lane_drains_its_host_then_times_alone() -> None:
    executor = played(lanes=(lane("cpu"),))
    evaluate(executor, 0, 1, 2)
    assert executor.running() == {"w0": (0,), "w1": (1,)}
    measure(executor, "cpu", 7, 8, 9)
    executor.end("w0")
    assert executor.running() == {"w1": (1,)}  # 2 waits, though w0 is free
    assert executor.free == 0
    executor.end("w1")
    assert executor.running() == {"cpu": (7, 8, 9)}
    assert executor.free == 0  # a proposal made now would not know the result
    (result,) = executor.end("cpu")
    assert isinstance(result, Measured)
    assert executor.running() == {"w0": (2,)}
    assert executor.free == 1


def test_the_last_measurings_wait_for_nobody() -> None:
    executor = played(lanes=(lane("cpu"),))
    measure(executor, "cpu", 7)
    assert executor.free == 2  # the loop proposes first, if it has anything to propose
    assert executor.running() == {"cpu": (7,)}


def test_a_lane_that_waited_long_enough_times_fewer() -> None:
    executor = played(lanes=(lane("cpu"),), lane_wait_s=0.0)
    evaluate(executor, 0)
    measure(executor, "cpu", 7)
    assert executor.free == 0
    assert executor.running() == {"cpu": (7,)}


def test_hosts_do_not_wait_for_each_other() -> None:
    executor = played(hosts=("h", "g"), lanes=(lane("cpu"),))
    evaluate(executor, 0, 1, 2)
    executor.running()
    measure(executor, "cpu", 7, 8, 9)
    executor.end("w0")
    executor.end("w1")
    assert executor.running() == {"w1": (2,), "cpu": (7, 8, 9)}


def test_a_host_that_is_not_known_may_be_any() -> None:
    """Actors come up one by one; until one has said where it lives, it must be thought to share the lane's cores."""
    executor = played(hosts=(None, "h"), lanes=(lane("cpu"), lane("other", None)))
    evaluate(executor, 0, 1)
    executor.running()
    measure(executor, "cpu", 7, 8, 9)
    executor.end("w1")
    assert executor.running() == {"w0": (0,)}
    executor.end("w0")
    measure(executor, "other", 4)
    assert executor.running() == {"cpu": (7, 8, 9)}
    executor.end("cpu")
    assert executor.running() == {"other": (4,)}


def test_nothing_is_timed_while_a_worker_comes_up() -> None:
    executor = played(lanes=(lane("cpu"),))
    executor.coming_up = {"w1"}
    measure(executor, "cpu", 7)
    assert executor.running() == {}
    executor.coming_up = set()
    assert executor.running() == {"cpu": (7,)}


def test_lanes_elsewhere_run_beside_everything_but_timings() -> None:
    executor = played(lanes=(lane("far", exclusive=False), lane("cpu")), lane_batch=1)
    evaluate(executor, 0, 1)
    measure(executor, "far", 7)
    assert executor.running() == {"w0": (0,), "w1": (1,), "far": (7,)}
    measure(executor, "cpu", 7)
    executor.end("w0")
    executor.end("w1")
    assert executor.running() == {"far": (7,)}
    executor.end("far")
    measure(executor, "far", 8)
    assert "cpu" in executor.running() or "far" in executor.running()
    assert len(executor.running()) == 1


def test_a_dead_batch_is_tried_one_by_one() -> None:
    executor = played(lanes=(lane("cpu"),))
    measure(executor, "cpu", 7, 8, 9)
    executor.running()
    assert executor.end("cpu", WorkerDied()) == []
    assert executor.replaced == ["cpu"]
    ended = {}
    for _ in range(3):
        ((index,),) = executor.running().values()
        (result,) = executor.end("cpu", WorkerDied("it burns") if index == 8 else None)
        ended[index] = result.results
    assert ended == {7: ({},), 8: ("RuntimeError: it burns (2 attempts)",), 9: ({},)}
    assert executor.idle


def test_an_evaluation_is_tried_as_often_as_it_says() -> None:
    executor = played(retries=2)
    evaluate(executor, 5)
    for attempt in range(3):
        ((name, job),) = executor.running().items()
        assert job == (5,)
        results = executor.end(name, WorkerDied())
        assert len(results) == (attempt == 2)
    assert isinstance(results[0], Evaluated)
    assert results[0].evaluation.error == "RuntimeError: the worker died (3 attempts)"
    evaluate(executor, 6)
    (name,) = executor.running()
    executor.end(name, WorkerDied())
    (name,) = executor.running()
    (result,) = executor.end(name)
    assert result.evaluation.attributes == {"retries": 1}


def test_a_lost_host_says_nothing_about_the_job_until_it_happens_again_and_again() -> None:
    executor = played(retries=0)
    evaluate(executor, 5)
    for _ in range(MOVES):
        (name,) = executor.running()
        assert executor.end(name, HostLost()) == []
    (name,) = executor.running()
    (result,) = executor.end(name, HostLost("its node is gone"))
    assert result.evaluation.error == "RuntimeError: its node is gone (1 attempts)"


def test_a_slot_whose_worker_is_not_up_gets_nothing() -> None:
    executor = played(lanes=(lane("cpu"),))
    executor._ready(executor.slots[0], False)
    evaluate(executor, 1, 2)
    assert executor.running() == {"w1": (1,)}
    assert executor.free == 0
    executor._ready(executor.slots[0], True)
    assert executor.running() == {"w0": (2,), "w1": (1,)}
    executor._ready(executor.slots[2], False)
    measure(executor, "cpu", 7, 8, 9)
    executor.end("w0")
    executor.end("w1")
    assert executor.free == 2  # nobody waits for a lane that is not there
    assert executor.running() == {}
    executor._ready(executor.slots[2], True)
    assert executor.running() == {"cpu": (7, 8, 9)}


def test_slots_come_and_go() -> None:
    executor = played(hosts=("h",))
    executor._add(Slot("later", "g"))
    evaluate(executor, 1, 2, 3)
    assert executor.running() == {"w0": (1,), "later": (2,)}
    executor._ready(executor.slots[0], False)
    executor.end("later")
    assert executor.running() == {"w0": (1,), "later": (3,)}
    executor.end("later")
    executor._remove(executor.slots[1])
    executor.end("w0")
    evaluate(executor, 4)
    assert executor.running() == {}
    executor._ready(executor.slots[0], True)
    assert executor.running() == {"w0": (4,)}


def test_a_job_that_takes_too_long_is_given_up() -> None:
    executor = played(timeout_s=1e-9, retries=0)
    evaluate(executor, 5)
    executor._schedule()
    (result,) = executor.wait(0.0)
    assert result.evaluation.error == "RuntimeError: gave up after 1e-09 s (1 attempts)"
    assert executor.replaced == ["w0"]
