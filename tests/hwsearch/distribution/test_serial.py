from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from hwsearch.distribution.executor import Executor
from hwsearch.distribution.jobs import Limits, MeasureJob
from hwsearch.distribution.serial import SerialExecutor
from tests.contracts.executor_contract import ExecutorContract, drive, evaluate_jobs
from tests.contracts.fake_workers import FakeFactory, artifact


class TestSerialExecutor(ExecutorContract):
    def make(
        self,
        factory: FakeFactory,
        *,
        weights: dict[str, NDArray[Any]] | None = None,
        devices: Sequence[tuple[str, bool]] = (),
        limits: Limits | None = None,
    ) -> Executor:
        return SerialExecutor(factory, weights, devices=devices, limits=limits)


def test_a_proposal_waits_for_everything_before_it(tmp_path: Path) -> None:
    factory = FakeFactory(str(tmp_path), devices=("a",))
    executor = SerialExecutor(factory, None, devices=[("a", True)])
    drive(executor, evaluate_jobs(3), devices=("a",))
    order = [(e["what"], e["indices"]) for e in factory.events()]
    assert order == [(what, [i]) for i in range(3) for what in ("accuracy", "a")]
    executor.submit(MeasureJob("a", (9,), (artifact(9),)))
    assert executor.free == 0


def test_close_forgets_workers(tmp_path: Path) -> None:
    executor = SerialExecutor(FakeFactory(str(tmp_path)), None)
    drive(executor, evaluate_jobs(1))
    executor.close()
    assert [slot.worker for slot in executor.slots] == [None]
