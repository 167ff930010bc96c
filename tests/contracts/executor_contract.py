"""What every executor must do. A test class inherits it and says how the executor is made."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hwsearch.distribution.executor import Executor
from hwsearch.distribution.jobs import Evaluated, EvaluateJob, Limits, Measured, MeasureJob
from hwsearch.errors import WorkerError
from tests.contracts.fake_workers import FakeFactory, artifact

ROW = np.array([1, 2, 3], dtype=np.uint8)


def evaluate_jobs(n: int) -> list[EvaluateJob]:
    return [EvaluateJob(i, ROW) for i in range(n)]


def drive(
    executor: Executor, jobs: Sequence[EvaluateJob], *, devices: Sequence[str] = (), limit_s: float = 60.0
) -> tuple[dict[int, Evaluated], dict[tuple[str, int], Any]]:
    """Submits as the loop does, as much as is free, and measures what was evaluated; fails on anything twice."""
    waiting, evaluated, measured = list(jobs), {}, {}
    until = time.monotonic() + limit_s
    while waiting or not executor.idle:
        assert time.monotonic() < until, "the executor does not come to an end"
        for _ in range(min(executor.free, len(waiting))):
            executor.submit(waiting.pop(0))
        for result in executor.wait(0.2):
            if isinstance(result, Evaluated):
                assert result.job.index not in evaluated
                evaluated[result.job.index] = result
                if result.evaluation.error is None:
                    for device in devices:
                        made = result.artifacts[device]
                        executor.submit(MeasureJob(device, (result.job.index,), (made,)))
            else:
                assert isinstance(result, Measured)
                assert len(result.results) == len(result.job.indices) == len(result.job.artifacts)
                for index, outcome in zip(result.job.indices, result.results, strict=True):
                    assert (result.job.device, index) not in measured
                    measured[result.job.device, index] = outcome
    return evaluated, measured


def overlapping(events: list[dict[str, Any]], one: str, other: str) -> list[tuple[Any, Any]]:
    """Returns pairs of events of two kinds that ran at the same time."""
    first = [e for e in events if e["what"] == one]
    second = [e for e in events if e["what"] == other]
    return [(a, b) for a in first for b in second if a is not b and a["begin"] < b["end"] and b["begin"] < a["end"]]


class ExecutorContract:
    """Inherit, and define `make`."""

    def make(
        self,
        factory: FakeFactory,
        *,
        weights: dict[str, NDArray[Any]] | None = None,
        devices: Sequence[tuple[str, bool]] = (),
        limits: Limits | None = None,
    ) -> Executor:
        raise NotImplementedError

    @pytest.fixture
    def made(self) -> Iterator[list[Executor]]:
        executors: list[Executor] = []
        yield executors
        for executor in executors:
            executor.close()

    def test_every_job_arrives_once(self, tmp_path: Path, made: list[Executor]) -> None:
        factory = FakeFactory(str(tmp_path), devices=("a", "b"))
        made.append(executor := self.make(factory, devices=[("a", True), ("b", False)]))
        evaluated, measured = drive(executor, evaluate_jobs(11), devices=("a", "b"))
        assert sorted(evaluated) == list(range(11))
        assert all(r.evaluation.metrics == {"accuracy": i, "genes": 6.0} for i, r in evaluated.items())
        assert sorted(measured) == sorted((d, i) for d in "ab" for i in range(11))
        assert all(outcome["latency_ms"].value == index for (_, index), outcome in measured.items())
        assert executor.idle
        assert executor.n_waiting == 0

    def test_workers_get_the_weights(self, tmp_path: Path, made: list[Executor]) -> None:
        weights = {"w": np.full(1000, 0.5, dtype=np.float32), "n": np.array(3)}
        made.append(executor := self.make(FakeFactory(str(tmp_path)), weights=weights))
        evaluated, _ = drive(executor, evaluate_jobs(2))
        assert [r.evaluation.metrics["weights"] for r in evaluated.values()] == [503.0, 503.0]

    def test_errors_are_data(self, tmp_path: Path, made: list[Executor]) -> None:
        factory = FakeFactory(str(tmp_path), devices=("a",), fails=frozenset({1}), lane_fails=frozenset({2}))
        made.append(executor := self.make(factory, devices=[("a", True)], limits=Limits(lane_batch=1)))
        evaluated, measured = drive(executor, evaluate_jobs(4), devices=("a",))
        assert evaluated[1].evaluation.error == "ValueError: network 1 is ill"
        assert evaluated[1].artifacts == {}
        assert [i for i, r in evaluated.items() if r.evaluation.error is not None] == [1]
        assert measured["a", 2] == "RuntimeError: a is broken"
        assert {index for (_, index), outcome in measured.items() if isinstance(outcome, str)} == {2}
        assert sorted(index for _, index in measured) == [0, 2, 3]

    def test_free_counts_what_would_start_now(self, tmp_path: Path, made: list[Executor]) -> None:
        made.append(executor := self.make(FakeFactory(str(tmp_path), seconds=0.06)))  # shorter ones may lie ready
        drive(executor, evaluate_jobs(4))
        free = executor.free
        assert free >= 1
        for job in evaluate_jobs(free + 2):
            executor.submit(job)
        assert executor.free == 0
        assert executor.n_waiting == free + 2
        assert not executor.idle
        drive(executor, [])
        assert executor.free >= free  # another worker may have come up meanwhile

    def test_unknown_device(self, tmp_path: Path, made: list[Executor]) -> None:
        made.append(executor := self.make(FakeFactory(str(tmp_path)), devices=[("a", True)]))
        with pytest.raises(ValueError, match=r"device must be one of \['a'\], but got 'c'\."):
            executor.submit(MeasureJob("c", (0,), (artifact(0),)))

    def test_reference_values_travel_with_measurings(self, tmp_path: Path, made: list[Executor]) -> None:
        factory = FakeFactory(str(tmp_path), devices=("a",))
        made.append(executor := self.make(factory, devices=[("a", True)]))
        _, before = drive(executor, evaluate_jobs(1), devices=("a",))
        executor.references["a"] = 2.5
        _, after = drive(executor, [EvaluateJob(7, ROW)], devices=("a",))
        assert before["a", 0]["latency_ms"].environment["reference"] is None
        assert after["a", 7]["latency_ms"].environment["reference"] == 2.5

    def test_timings_have_their_host_to_themselves(self, tmp_path: Path, made: list[Executor]) -> None:
        factory = FakeFactory(str(tmp_path), devices=("a", "b"), seconds=0.03)
        limits = Limits(lane_batch=3, lane_wait_s=0.2)
        made.append(executor := self.make(factory, devices=[("a", True), ("b", True)], limits=limits))
        drive(executor, evaluate_jobs(10), devices=("a", "b"))
        events = factory.events()
        assert sum(len(e["indices"]) for e in events) == 30
        for one, other in (("a", "accuracy"), ("b", "accuracy"), ("a", "b"), ("a", "a"), ("b", "b")):
            assert overlapping(events, one, other) == []

    def test_no_worker_can_be_made(self, tmp_path: Path, made: list[Executor]) -> None:
        made.append(executor := self.make(FakeFactory(str(tmp_path), unmade=frozenset({"accuracy"}))))
        with pytest.raises(
            WorkerError, match="at least one accuracy worker must come up, but: FileNotFoundError: the data are not"
        ):
            drive(executor, evaluate_jobs(3))

    def test_no_device_can_be_opened(self, tmp_path: Path, made: list[Executor]) -> None:
        factory = FakeFactory(str(tmp_path), devices=("a",), unmade=frozenset({"a"}))
        made.append(executor := self.make(factory, devices=[("a", True)]))
        with pytest.raises(
            WorkerError, match="at least one device must come up, but a: RuntimeError: nobody answers at a"
        ):
            drive(executor, evaluate_jobs(3), devices=("a",))

    def test_one_of_two_devices_cannot_be_opened(self, tmp_path: Path, made: list[Executor]) -> None:
        factory = FakeFactory(str(tmp_path), devices=("a", "b"), unmade=frozenset({"a"}))
        made.append(executor := self.make(factory, devices=[("a", True), ("b", True)], limits=Limits(lane_batch=2)))
        evaluated, measured = drive(executor, evaluate_jobs(5), devices=("a", "b"))
        assert len(evaluated) == 5
        reason = "the worker could not be made: RuntimeError: nobody answers at a"
        assert [measured["a", i] for i in range(5)] == [reason] * 5
        assert [measured["b", i]["latency_ms"].value for i in range(5)] == [0.0, 1.0, 2.0, 3.0, 4.0]
