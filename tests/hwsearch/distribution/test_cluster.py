"""A Ray of several nodes on this machine, whose nodes come and go."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from hwsearch.distribution import ray_cluster
from hwsearch.distribution.jobs import Limits, Resources
from hwsearch.distribution.ray_executor import RayExecutor
from hwsearch.errors import UserError, WorkerError
from tests.contracts.executor_contract import drive, evaluate_jobs
from tests.contracts.fake_workers import FakeFactory

STORE_BYTES = 80 * 2**20


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": STORE_BYTES})
    ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.mark.ray
def test_workers_follow_the_nodes_and_nothing_is_lost(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"devices\.near must be a node of the cluster") as caught:
        cluster.add_node(num_cpus=0, object_store_memory=STORE_BYTES)
        cluster.wait_for_nodes()
        RayExecutor(FakeFactory(str(tmp_path)), None, devices=[("near", True)], address=cluster.address)
    assert "but none of its 2 nodes has that resource" in str(caught.value)

    factory = FakeFactory(str(tmp_path), devices=("near", "far"), seconds=0.3)
    measuring = cluster.add_node(num_cpus=0, resources={"device:near": 1}, object_store_memory=STORE_BYTES)
    cluster.wait_for_nodes()
    devices = [("near", True), ("far", False)]
    executor = RayExecutor(
        factory, None, devices=devices, address=cluster.address, limits=Limits(retries=0, lane_wait_s=0.2)
    )
    try:
        evaluated, measured = drive(executor, evaluate_jobs(2), devices=("near", "far"), limit_s=120)
        assert len(evaluated) == 2
        assert len(measured) == 4
        near = next(s for s in executor.slots if s.device == "near")
        assert near.host == measuring.node_id
        joined = cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        until = time.monotonic() + 90
        while executor.free < 2:  # a worker on the new node
            assert time.monotonic() < until
            executor.wait(0.1)
        there = next(s for s in executor.slots if s.device is None and s.host == joined.node_id)
        jobs = evaluate_jobs(8)[2:]
        for job in jobs[:2]:
            executor.submit(job)
        assert executor.wait(0.0) == []
        assert there.job is not None
        cluster.remove_node(joined, allow_graceful=False)
        rest, _ = drive(executor, jobs[2:], limit_s=120)
        assert sorted(rest) == [2, 3, 4, 5, 6, 7]
        assert all(r.evaluation.error is None and "retries" not in r.evaluation.attributes for r in rest.values())
    finally:
        executor.close()


def test_a_ray_that_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def init(**options: object) -> None:
        tries.append(options)
        raise Exception("The current node timed out\nduring startup.")

    monkeypatch.setattr(ray_cluster.ray, "init", init)
    monkeypatch.setattr(ray_cluster.ray, "shutdown", lambda: None)
    with pytest.raises(
        WorkerError, match=r"Ray must start .*, but 2 times: The current node timed out during"
    ) as caught:
        ray_cluster.join(None)
    assert len(tries) == 2
    assert "\n" not in str(caught.value)


def test_another_version_of_ray_or_python_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**options: object) -> None:  # as `ray.init` does, with what the head of another version says of itself
        theirs = {"ray_version": "2.9.0", "python_version": "3.10.1"}
        ray._private.utils.check_version_info(theirs, "This process", raise_on_mismatch=True)

    monkeypatch.setattr(ray_cluster.ray, "init", init)
    monkeypatch.setattr(ray_cluster, "knock", lambda address: None)
    with pytest.raises(UserError, match=r"^executor\.address must be a cluster of the same Ray and Python") as caught:
        ray_cluster.join("10.0.0.1:6379")
    assert all(version in str(caught.value) for version in ("2.9.0", "3.10.1", ray.__version__))
    assert "\n" not in str(caught.value)


def test_nobody_at_the_address_is_one_line_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(UserError, match=rf"^executor\.address must be a running Ray cluster, but '{address}' does not"):
        ray_cluster.join(address)
    assert not ray.is_initialized()


def test_a_silent_head_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def knock(address: str) -> None:
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(ray_cluster, "knock", knock)
    watch = object.__new__(ray_cluster.HeadWatch)
    watch.address, watch.silent_s = "10.0.0.1:6379", 0.0
    watch._heard = watch._tried = time.monotonic() - 10
    with pytest.raises(
        WorkerError, match=r"the head of the Ray cluster must answer, but 10\.0\.0\.1:6379 is silent"
    ) as caught:
        watch.check()
    assert "the same command continues on a new head" in str(caught.value)


@pytest.mark.parametrize(
    ("needs", "node", "fit"),
    [
        (Resources(), {"CPU": 3.0}, 3),
        (Resources(), {}, 0),
        (Resources(cpus=0.5, gpus=0.25), {"CPU": 8.0, "GPU": 1.0}, 4),
        (Resources(cpus=1, memory_bytes=4e9), {"CPU": 8.0, "memory": 9e9}, 2),
    ],
)
def test_how_many_workers_fit_on_a_node(needs: Resources, node: dict[str, float], fit: int) -> None:
    assert needs.fit(node) == fit
