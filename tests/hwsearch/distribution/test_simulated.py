from __future__ import annotations

import numpy as np

from hwsearch.distribution.jobs import Evaluated, EvaluateJob
from hwsearch.distribution.simulated import SimulatedExecutor
from hwsearch.results import Evaluation


def made(n_workers: int, *, message_s: float = 0.0) -> SimulatedExecutor:
    def evaluate(job: EvaluateJob) -> tuple[Evaluation, dict[str, object]]:
        return Evaluation({"accuracy": float(job.index)}, seconds=0.0), {}

    return SimulatedExecutor(n_workers, evaluate=evaluate, duration_s=lambda job: 10.0 + job.index, message_s=message_s)  # type: ignore[arg-type]


def test_time_is_what_the_workers_need() -> None:
    executor = made(2)
    for index in range(4):
        executor.submit(EvaluateJob(index, np.zeros(1, np.uint8)))
    order = []
    while not executor.idle:
        order += [r.job.index for r in executor.wait(1000.0) if isinstance(r, Evaluated)]
    assert order == [0, 1, 2, 3]
    # Worker 1: 10 s and 12 s; worker 2: 11 s and 13 s.
    assert 24.0 <= executor.elapsed_s < 25.0
    assert 46.0 <= executor.worked_s < 46.5


def test_messages_cost_the_driver() -> None:
    executor = made(1, message_s=5.0)
    executor.submit(EvaluateJob(0, np.zeros(1, np.uint8)))
    while not executor.idle:
        executor.wait(1000.0)
    assert 20.0 <= executor.elapsed_s < 21.0


def test_waiting_ends_with_its_time() -> None:
    executor = made(1)
    executor.submit(EvaluateJob(0, np.zeros(1, np.uint8)))
    assert executor.wait(2.0) == []
    assert executor.n_busy == 1
    assert 2.0 <= executor.elapsed_s < 3.0
