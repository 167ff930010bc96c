"""RayExecutor: the same jobs on Ray actors, on this machine or on a cluster."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import ray
from numpy.typing import NDArray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from hwsearch.distribution.executor import (
    AccuracyWorker,
    EvaluateJob,
    Executor,
    Job,
    LaneWorker,
    Limits,
    MeasureJob,
    Slot,
    WorkerDied,
    WorkerFactory,
    WorkerFailed,
    one_line,
)
from hwsearch.errors import UserError

OBJECT_STORE_BYTES = 512 * 2**20
STARTING_S = 60.0
"""How long a worker counts as coming up; one that waits for room in a full cluster must not stop all timings."""


class _AccuracyActor:
    """Carries an accuracy worker; weights come from the object store, shared read-only with all actors of the node."""

    def __init__(self, factory: WorkerFactory, weights: dict[str, NDArray[Any]] | None) -> None:
        self._worker: AccuracyWorker | WorkerFailed
        try:
            self._worker = factory.accuracy(weights)
        except Exception as error:
            self._worker = WorkerFailed(one_line(error))

    def run(self, job: EvaluateJob) -> Any:
        """Returns the worker's answer, or why there is no worker."""
        return self._worker if isinstance(self._worker, WorkerFailed) else self._worker.evaluate(job)

    def host(self) -> str:
        """Returns the id of the node."""
        return str(ray.get_runtime_context().get_node_id())


class _LaneActor:
    """Carries a measuring lane."""

    def __init__(self, factory: WorkerFactory, device: str) -> None:
        self._worker: LaneWorker | WorkerFailed
        try:
            self._worker = factory.lane(device)
        except Exception as error:
            self._worker = WorkerFailed(one_line(error))

    def run(self, job: MeasureJob) -> Any:
        """Returns the worker's answer, or why there is no worker."""
        return self._worker if isinstance(self._worker, WorkerFailed) else self._worker.measure(job)

    def host(self) -> str:
        """Returns the id of the node."""
        return str(ray.get_runtime_context().get_node_id())


class RayExecutor(Executor):
    """Long-lived Ray actors: one per accuracy slot, one lane per device.

    Args:
        factory: of workers; pickled to the actors.
        weights: full weights; put into the object store once, as NumPy arrays.
        devices: (name, exclusive) of all lanes.
        n_workers: accuracy actors; None for one per core of the local machine or cluster.
        address: None starts a local Ray on demand; `auto` or an address joins a running one.
        limits: retries, time limits and lane batches.
        ledger: file that notes the processes of a local Ray, so that a later start can end what a killed driver
            left behind.
    """

    def __init__(
        self,
        factory: WorkerFactory,
        weights: dict[str, NDArray[Any]] | None,
        *,
        devices: Sequence[tuple[str, bool]] = (),
        n_workers: int | None = None,
        address: str | None = None,
        limits: Limits | None = None,
        ledger: Path | None = None,
    ) -> None:
        self._owns_ray = not ray.is_initialized()
        self._ledger = ledger if address is None and self._owns_ray else None
        if self._owns_ray:
            if self._ledger is not None:
                end_leftovers(self._ledger)
            _init(address)
            if self._ledger is not None:
                note_processes(self._ledger)
        cpus = int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]
        n_workers = max(1, cpus) if n_workers is None else n_workers
        if n_workers > cpus:
            raise UserError(
                f"executor.workers must be at most the {cpus} CPUs of the Ray cluster, but got {n_workers}."
            )
        self._factory = ray.put(factory)
        self._weights = None if weights is None else ray.put(weights)
        # Only an actor that is up can say where it lives.
        slots = [Slot(f"accuracy-{i}", None) for i in range(n_workers)]
        slots += [Slot(name, None, device=name, exclusive=exclusive) for name, exclusive in devices]
        super().__init__(slots, limits or Limits())
        self._refs: dict[Any, Slot] = {}
        self._hosts: dict[Any, Slot] = {}  # workers that have not said yet where they live
        self._made: dict[str, float] = {}
        for slot in self.slots:
            self._make(slot)

    def _make(self, slot: Slot) -> None:
        if slot.device is None:
            actor = ray.remote(_AccuracyActor).options(num_cpus=1, max_restarts=0)
            slot.worker = actor.remote(self._factory, self._weights)
        else:
            lane = ray.remote(_LaneActor).options(num_cpus=0, max_restarts=0)
            slot.worker = lane.remote(self._factory, slot.device)
        slot.host = None
        self._hosts[slot.worker.host.remote()] = slot
        self._made[slot.name] = time.monotonic()

    def _starting(self, slot: Slot) -> bool:
        return slot in self._hosts.values() and time.monotonic() - self._made[slot.name] < STARTING_S

    def _learn_hosts(self) -> None:
        """Notes on which node each actor runs, as they come up."""
        if self._hosts:
            ready, _ = ray.wait(list(self._hosts), num_returns=len(self._hosts), timeout=0)
            for ref in ready:
                slot = self._hosts.pop(ref)
                try:
                    slot.host = ray.get(ref)
                except RayError:
                    continue  # its first job will say so

    def _start(self, slot: Slot, job: Job) -> None:
        self._refs[slot.worker.run.remote(job)] = slot

    def _collect(self, timeout_s: float) -> list[tuple[Slot, Any]]:
        self._learn_hosts()
        if not self._refs:
            time.sleep(min(timeout_s, 0.01))
            return []
        ready, _ = ray.wait(list(self._refs), num_returns=1, timeout=timeout_s)
        if ready:
            more, _ = ray.wait(list(self._refs), num_returns=len(self._refs), timeout=0)
            ready = list(dict.fromkeys([*ready, *more]))
        out: list[tuple[Slot, Any]] = []
        for ref in ready:
            slot = self._refs.pop(ref)
            try:
                out.append((slot, ray.get(ref)))
            except RayActorError as error:
                out.append((slot, WorkerDied(_death(error))))
            except RayTaskError as error:
                out.append((slot, error.cause if isinstance(error.cause, Exception) else error))
            except (RayError, GetTimeoutError) as error:
                out.append((slot, WorkerDied(" ".join(str(error).split())[:200])))
        return out

    def _replace(self, slot: Slot) -> None:
        for ref in [r for r, s in self._refs.items() if s is slot]:
            del self._refs[ref]
        for ref in [r for r, s in self._hosts.items() if s is slot]:
            del self._hosts[ref]
        ray.kill(slot.worker)
        self._make(slot)

    def close(self) -> None:
        """Ends the actors, and Ray if this executor started it."""
        for slot in self.slots:
            if slot.worker is not None:
                ray.kill(slot.worker)
                slot.worker = None
        if self._owns_ray:
            ray.shutdown()
            if self._ledger is not None:
                end_leftovers(self._ledger)


def _init(address: str | None) -> None:
    """Starts or joins Ray, quietly."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address is None:
        ray.init(
            address="local",  # not a cluster that an environment variable names
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=OBJECT_STORE_BYTES,
        )
        return
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except OSError as error:  # ConnectionError is one
        raise UserError(
            f"executor.address must be a running Ray cluster, but {address!r} does not answer: "
            f"{' '.join(str(error).split())[:200]}"
        ) from error


def _knock(address: str) -> None:
    """Raises OSError if nobody listens at `host:port`; Ray itself would try for minutes."""
    host, found, port = address.removeprefix("ray://").rpartition(":")
    if found and port.isdigit():
        socket.create_connection((host, int(port)), timeout=5.0).close()


def _death(error: RayActorError) -> str:
    """Returns why an actor died, in one line."""
    text = str(error).lower()
    if "memory usage threshold" in text or "running low on memory" in text:  # every message mentions OOM
        return "the worker was killed because memory ran out"
    return "the worker died"


def note_processes(ledger: Path) -> None:
    """Writes the processes that this driver's local Ray consists of to `ledger`."""
    rows = []
    for child in psutil.Process().children(recursive=True):
        try:
            if "ray" in " ".join(child.cmdline()):
                rows.append(f"{child.pid} {child.create_time()}")
        except psutil.Error:
            continue
    ledger.parent.mkdir(parents=True, exist_ok=True)
    ledger.write_text("\n".join([f"{os.getpid()} {psutil.Process().create_time()}", *rows]) + "\n")


def end_leftovers(ledger: Path) -> int:
    """Ends the Ray processes noted in `ledger` whose driver is gone (or is this process); returns how many lived."""
    if not ledger.is_file():
        return 0
    rows = [row for line in ledger.read_text().splitlines() if (row := _process(line)) is not None]
    if rows and rows[0][0] != os.getpid() and _alive(*rows[0]):
        return 0
    leftovers = [process for pid, created in rows[1:] if (process := _alive(pid, created)) is not None]
    for process in leftovers:
        for child in process.children(recursive=True):
            child.kill()
        process.kill()
    ledger.unlink()
    return len(leftovers)


def _process(line: str) -> tuple[int, float] | None:
    """Returns (process id, time of its creation) of a line; None for a torn one."""
    pid, _, created = line.partition(" ")
    try:
        return int(pid), float(created)
    except ValueError:
        return None


def _alive(pid: int, created: float) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - created) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return None
    return process if same else None
