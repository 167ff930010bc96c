from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from numpy.typing import NDArray

from hwsearch.distribution.executor import Executor
from hwsearch.distribution.jobs import Limits
from hwsearch.distribution.leftovers import end_leftovers
from hwsearch.distribution.ray_executor import RayExecutor
from hwsearch.errors import UserError
from tests.contracts.executor_contract import ExecutorContract, drive, evaluate_jobs, overlapping
from tests.contracts.fake_workers import FakeFactory

pytestmark = pytest.mark.ray
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One Ray for all tests of this module; executors then only make actors."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
    yield
    ray.shutdown()


def executor_for(
    factory: FakeFactory,
    *,
    weights: dict[str, NDArray[Any]] | None = None,
    devices: Sequence[tuple[str, bool]] = (),
    limits: Limits | None = None,
) -> RayExecutor:
    return RayExecutor(factory, weights, devices=devices, n_workers=2, limits=limits)


class TestRayExecutor(ExecutorContract):
    def make(
        self,
        factory: FakeFactory,
        *,
        weights: dict[str, NDArray[Any]] | None = None,
        devices: Sequence[tuple[str, bool]] = (),
        limits: Limits | None = None,
    ) -> Executor:
        return executor_for(factory, weights=weights, devices=devices, limits=limits)


def until_up(executor: Executor, free: int) -> None:
    """Waits until as many workers, and all lanes, are up."""
    until = time.monotonic() + 60
    while executor.free < free or not all(slot.ready for slot in executor.slots):
        assert time.monotonic() < until, f"only {executor.free} workers came up"
        executor.wait(0.1)


@pytest.fixture
def made() -> Iterator[list[Executor]]:
    executors: list[Executor] = []
    yield executors
    for executor in executors:
        executor.close()


def test_a_killed_worker_costs_one_retry(tmp_path: Path, made: list[Executor]) -> None:
    factory = FakeFactory(str(tmp_path), kills={2: 1}, seconds=0.02)
    made.append(executor := executor_for(factory))
    evaluated, _ = drive(executor, evaluate_jobs(6))
    assert [evaluated[i].evaluation.metrics["accuracy"] for i in range(6)] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert evaluated[2].evaluation.attributes == {"retries": 1}
    assert factory.attempt("evaluate", 2) == 3  # two tries, and this count
    assert all(factory.attempt("evaluate", i) == 2 for i in (0, 1, 3, 4, 5))


def test_short_evaluations_lie_ready_at_their_worker_and_are_not_blamed(tmp_path: Path, made: list[Executor]) -> None:
    factory = FakeFactory(str(tmp_path), seconds=0.002, kills={70: 2, 90: 99})
    made.append(executor := executor_for(factory, limits=Limits(retries=2)))
    drive(executor, evaluate_jobs(60))
    for job in evaluate_jobs(62)[60:]:
        executor.submit(job)
    assert executor.free == 0
    executor.wait(0.0)
    assert executor.free > 2
    while not executor.idle:
        executor.wait(0.2)
    evaluated, _ = drive(executor, evaluate_jobs(120)[62:])
    assert len(evaluated) == 58
    # What was sent together with a killer is not blamed; once alone, it is the killer.
    assert {i: e.evaluation.error for i, e in evaluated.items() if e.evaluation.error is not None} == {
        90: "RuntimeError: the worker died (3 attempts)"
    }
    retried = {i for i, e in evaluated.items() if "retries" in e.evaluation.attributes}
    assert retried <= {70}  # which killed twice, and was alone with its worker one time at most
    (tmp_path / "long").mkdir()
    executor.close()  # its workers hold the cores
    long = executor_for(FakeFactory(str(tmp_path / "long"), seconds=0.1))
    made.append(long)
    until_up(long, 2)
    for job in evaluate_jobs(4):
        long.submit(job)
    long.wait(0.0)
    assert (long.n_busy, long.n_waiting, long.free) == (2, 2, 0)


def test_a_worker_that_takes_the_place_of_another_has_a_name_of_its_own(tmp_path: Path, made: list[Executor]) -> None:
    made.append(executor := executor_for(FakeFactory(str(tmp_path))))
    until_up(executor, 2)
    (slot, _), old = executor.slots, executor.slots[0].worker
    executor._make(slot)  # its predecessor was lost, but the cluster does not know that yet
    assert slot.worker is not old
    ray.kill(old)
    until_up(executor, 2)


def test_what_always_kills_is_given_up_with_its_reason(tmp_path: Path, made: list[Executor]) -> None:
    factory = FakeFactory(str(tmp_path), devices=("a",), kills={1: 99}, lane_kills={3: 99})
    limits = Limits(retries=1, lane_batch=4, lane_wait_s=0.1)
    made.append(executor := executor_for(factory, devices=[("a", True)], limits=limits))
    evaluated, measured = drive(executor, evaluate_jobs(5), devices=("a",))
    assert evaluated[1].evaluation.error == "RuntimeError: the worker died (2 attempts)"
    assert measured["a", 3] == "RuntimeError: the worker died (2 attempts)"
    # What was in the killer's batch is measured after all, alone.
    assert {index: measured["a", index]["latency_ms"].value for index in (0, 2, 4)} == {0: 0.0, 2: 2.0, 4: 4.0}
    assert factory.attempt("a", 3) == 3


def test_what_takes_too_long_is_given_up(tmp_path: Path, made: list[Executor]) -> None:
    factory = FakeFactory(str(tmp_path), slow={0: 120.0})
    made.append(executor := executor_for(factory))
    drive(executor, evaluate_jobs(3)[1:])  # both workers are up
    executor.limits = Limits(retries=0, timeout_s=1.5)
    started = time.monotonic()
    evaluated, _ = drive(executor, evaluate_jobs(1))
    assert evaluated[0].evaluation.error == "RuntimeError: gave up after 1.5 s (1 attempts)"
    assert time.monotonic() - started < 30
    executor.limits = Limits(retries=0, timeout_s=60)
    assert drive(executor, evaluate_jobs(5)[3:])[0].keys() == {3, 4}


def test_a_lane_times_batches(tmp_path: Path, made: list[Executor]) -> None:
    factory = FakeFactory(str(tmp_path), devices=("a",))
    made.append(executor := executor_for(factory, devices=[("a", True)], limits=Limits(lane_batch=4, lane_wait_s=60)))
    drive(executor, evaluate_jobs(10), devices=("a",))
    sizes = [len(e["indices"]) for e in factory.events() if e["what"] == "a"]
    assert sum(sizes) == 10
    assert max(sizes) <= 4
    assert sizes.count(4) >= 1
    assert len(sizes) <= 4


def test_a_device_elsewhere_measures_beside_evaluations(tmp_path: Path, made: list[Executor]) -> None:
    factory = FakeFactory(str(tmp_path), devices=("far",), seconds=0.4)
    made.append(executor := executor_for(factory, devices=[("far", False)], limits=Limits(lane_batch=1)))
    until_up(executor, 2)
    drive(executor, evaluate_jobs(8), devices=("far",))
    assert overlapping(factory.events(), "far", "accuracy")


def test_a_device_here_times_beside_no_device_elsewhere(tmp_path: Path, made: list[Executor]) -> None:
    factory = FakeFactory(str(tmp_path), devices=("far", "near"), seconds=0.05)
    limits = Limits(lane_batch=1)
    made.append(executor := executor_for(factory, devices=[("far", False), ("near", True)], limits=limits))
    drive(executor, evaluate_jobs(6), devices=("far", "near"))
    events = factory.events()
    assert overlapping(events, "near", "accuracy") == []
    assert overlapping(events, "near", "far") == []


def test_evaluations_run_side_by_side(tmp_path: Path, made: list[Executor]) -> None:
    factory = FakeFactory(str(tmp_path), seconds=0.2)
    made.append(executor := executor_for(factory))
    until_up(executor, 2)
    drive(executor, evaluate_jobs(6))
    assert overlapping(factory.events(), "accuracy", "accuracy")
    assert len({e["pid"] for e in factory.events()}) == 2


def test_more_workers_than_the_cluster_has(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"executor\.workers must be at most the 2 that fit into Ray.s resources, but got 3"
    ):
        RayExecutor(FakeFactory(str(tmp_path)), None, n_workers=3)


# ---- a Ray of its own: in other processes, which may be killed ---------------------------------------------------

DRIVER = """
import json, sys, time
from pathlib import Path
import psutil
from hwsearch.distribution.ray_executor import RayExecutor
from tests.contracts.executor_contract import drive, evaluate_jobs
from tests.contracts.fake_workers import FakeFactory

if __name__ == "__main__":
    folder, wait, address = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None
    executor = RayExecutor(FakeFactory(str(folder)), None, n_workers=1, address=address, ledger=folder / "ray.pids")
    evaluated, _ = drive(executor, evaluate_jobs(2))
    mine = psutil.Process().children(recursive=True)
    print(json.dumps({"evaluated": len(evaluated), "pids": [p.pid for p in mine]}), flush=True)
    time.sleep(wait)
    executor.close()
    left = [p for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]
    print(json.dumps({"left": len(left), "ledger": (folder / "ray.pids").exists()}), flush=True)
"""


def start_driver(folder: Path, wait: float, *address: str) -> subprocess.Popen[str]:
    script = folder / "driver.py"
    script.write_text(DRIVER)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, str(script), str(folder), str(wait), *address],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def alive(pids: Sequence[int]) -> list[int]:
    found = []
    for pid in pids:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
        except psutil.NoSuchProcess:
            continue
    return found


def until_gone(pids: Sequence[int], seconds: float = 20.0) -> list[int]:
    until = time.monotonic() + seconds
    while (left := alive(pids)) and time.monotonic() < until:
        time.sleep(0.1)
    return left


def test_close_leaves_no_process(tmp_path: Path) -> None:
    driver = start_driver(tmp_path, 0.0)
    out, error = driver.communicate(timeout=120)
    assert driver.returncode == 0, error
    first, last = map(json.loads, out.splitlines())
    assert first["evaluated"] == 2
    assert len(first["pids"]) >= 3
    assert last == {"left": 0, "ledger": False}
    assert until_gone(first["pids"]) == []


def test_the_next_start_ends_what_a_killed_driver_left(tmp_path: Path) -> None:
    driver = start_driver(tmp_path, 600.0)
    assert driver.stdout is not None
    pids = json.loads(driver.stdout.readline())["pids"]
    ledger = tmp_path / "ray.pids"
    assert end_leftovers(ledger) == 0  # its driver lives
    assert ledger.exists()
    assert alive(pids) == pids
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    driver.stdout.close()
    noted = [int(line.split()[0]) for line in ledger.read_text().splitlines()[1:]]
    assert noted
    assert alive(noted), "Ray ended by itself; then there would be no need for a ledger"
    assert end_leftovers(ledger) >= 1
    assert not ledger.exists()
    assert until_gone(pids) == []
    assert end_leftovers(ledger) == 0


def test_a_ledger_does_not_end_strangers(tmp_path: Path) -> None:
    """Process ids are used again: only a process that was made at the noted time is ended."""
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        ledger = tmp_path / "ray.pids"
        created = psutil.Process(stranger.pid).create_time()
        ledger.write_text(f"999999999 1.0\n{stranger.pid} {created - 100}\ngarbage\nx y\n")
        assert end_leftovers(ledger) == 0
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_an_address_where_no_ray_answers(tmp_path: Path) -> None:
    driver = start_driver(tmp_path, 0.0, "127.0.0.1:1")
    _, error = driver.communicate(timeout=120)
    assert driver.returncode == 1
    last = error.strip().splitlines()[-1]
    assert "UserError: executor.address must be a running Ray cluster, but '127.0.0.1:1' does not answer" in last
