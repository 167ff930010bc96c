"""RayExecutor: the same jobs on Ray actors, on this machine or on a cluster whose nodes come and go."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from numpy.typing import NDArray
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayActorError, RayError, RayTaskError

from hwsearch.distribution.ahead import LARGEST, Ahead
from hwsearch.distribution.executor import Executor
from hwsearch.distribution.jobs import (
    AccuracyWorker,
    EvaluateJob,
    GroupLost,
    HostLost,
    Job,
    LaneWorker,
    Limits,
    MeasureJob,
    Resources,
    Result,
    Slot,
    WorkerDied,
    WorkerFactory,
    WorkerFailed,
    one_line,
)
from hwsearch.distribution.leftovers import end_leftovers, note_processes
from hwsearch.distribution.metrics import RunMetrics
from hwsearch.distribution.ray_cluster import HeadWatch, alive_nodes, check_devices, join
from hwsearch.errors import UserError, WorkerError
from hwsearch.results import Evaluation, RunCounts

STARTING_S = 60.0
"""How long a worker counts as coming up; one that waits for room in a full cluster must not stop all timings."""
STARTS = 3
"""How often a worker that dies before it is up is started again."""
LOOK_S = 2.0
"""How often the nodes of a cluster are counted."""


@dataclass(frozen=True)
class _Timed:
    """An accuracy worker's answer."""

    answer: Any
    seconds: float


class _AccuracyActor:
    """Carries an accuracy worker; weights come from the object store, shared read-only with all actors of the node."""

    def __init__(self, factory: WorkerFactory, weights: dict[str, NDArray[Any]] | None) -> None:
        self._worker: AccuracyWorker | WorkerFailed
        try:
            self._worker = factory.accuracy(weights)
        except Exception as error:
            self._worker = WorkerFailed(one_line(error))

    def run(self, jobs: Sequence[EvaluateJob]) -> list[_Timed] | WorkerFailed:
        """Returns the worker's answers and how long each took, or why there is no worker."""
        if isinstance(self._worker, WorkerFailed):
            return self._worker
        answers = []
        for job in jobs:
            started = time.perf_counter()
            try:
                answer = self._worker.evaluate(job)
            except Exception as error:  # of one job, and not of those that came with it
                answer = Evaluation({}, seconds=0.0, error=one_line(error)), {}
            answers.append(_Timed(answer, time.perf_counter() - started))
        return answers

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
    """Long-lived Ray actors: accuracy workers, and one lane per device.

    On a cluster (an address) the accuracy workers follow the nodes: they are made as nodes join, and what a lost
    node carried goes to another one. A slot gets jobs only while its worker is up.

    Args:
        factory: of workers; pickled to the actors.
        weights: full weights; put into the object store once, as NumPy arrays.
        devices: (name, exclusive) of all lanes. On several nodes an exclusive one is a node with its resource; the
            lanes of others, behind an address of their own, may be anywhere.
        n_workers: accuracy actors at most; None for as many as fit.
        address: None starts a local Ray on demand; `auto` or an address joins a running one.
        limits: retries, time limits and lane batches.
        ledger: file that notes the processes of a local Ray, so that a later start can end what a killed driver
            left behind.
        accuracy: what an accuracy worker needs.
        absent_s: how long nothing may be up for what waits before the run ends, to be continued.
        namespace, runtime_env: of a cluster, in Ray's words.
        run: name under which a cluster shows the run's metrics.

    Raises:
        UserError: no cluster answers, more workers than it can hold, or no node has a device.
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
        accuracy: Resources | None = None,
        absent_s: float = 600.0,
        namespace: str | None = None,
        runtime_env: Mapping[str, Any] | None = None,
        run: str = "",
    ) -> None:
        self._owns_ray = not ray.is_initialized()
        self._ledger = ledger if address is None and self._owns_ray else None
        if self._owns_ray:
            if self._ledger is not None:
                end_leftovers(self._ledger)
            join(address, namespace=namespace, runtime_env=runtime_env)
            if self._ledger is not None:
                note_processes(self._ledger)
        self._resources, self._n_workers, self._absent_s = accuracy or Resources(), n_workers, absent_s
        self._elastic = address is not None
        self._head = HeadWatch() if self._elastic else None
        self._tied: frozenset[str] = frozenset()
        try:
            if self._elastic:
                self._tied = check_devices({name for name, exclusive in devices if exclusive})
            count = self._target()
        except UserError:
            self._leave()
            raise
        self._metrics = RunMetrics(run) if self._elastic else None
        self._factory = ray.put(factory)
        self._weights = None if weights is None else ray.put(weights)
        self._refs: dict[Any, Slot] = {}
        self._hosts: dict[Any, Slot] = {}  # workers that have not said yet where they live
        self._doubted: set[Slot] = set()  # out of reach: whether the worker or its node is gone is not known yet
        self._ahead = Ahead()
        self._made: dict[Slot, float] = {}
        self._starts: dict[Slot, int] = {}
        self._n_made = self._n_named = 0
        self._looked = self._progress = time.monotonic()
        super().__init__([], limits or Limits())
        for name, exclusive in devices:
            self._add(Slot(name, None, device=name, exclusive=exclusive, ready=False))
        for _ in range(count):
            self._grow()
        for lane in self._lanes:
            self._make(lane)

    # -- how many workers ----------------------------------------------------------------------------

    def _target(self) -> int:
        """Returns how many accuracy workers there should be now.

        Raises:
            UserError: more are asked for than a cluster that does not grow can hold.
        """
        fit = sum(self._resources.fit(node) for node in alive_nodes().values())
        if self._elastic:
            return fit if self._n_workers is None else min(fit, self._n_workers)
        if self._n_workers is not None and self._n_workers > fit:
            raise UserError(
                f"executor.workers must be at most the {fit} that fit into Ray's resources, but got {self._n_workers}."
            )
        return max(1, fit) if self._n_workers is None else self._n_workers

    def _grow(self) -> None:
        slot = Slot(f"accuracy-{self._n_made}", None, ready=False)
        self._n_made += 1
        self._add(slot)
        self._make(slot)

    def _look(self) -> None:
        """Follows the cluster: new workers on new nodes; those that wait for room that is gone are taken back."""
        now = time.monotonic()
        if not self._elastic or now - self._looked < LOOK_S:
            return
        self._looked = now
        there, target = self._accuracy(), self._target()
        for _ in range(target - len(there)):
            self._grow()
        waiting = [s for s in there if not s.ready and s.job is None]
        for slot in waiting[: max(0, len(there) - target)]:
            self._forget(slot)
            ray.kill(slot.worker)
            self._remove(slot)

    # -- actors --------------------------------------------------------------------------------------

    def _make(self, slot: Slot) -> None:
        self._n_named += 1  # a lost actor keeps its name for a while
        name = f"hwsearch {slot.name} {os.getpid()}-{self._n_named}"
        needs = self._resources
        if slot.device is None:
            actor = ray.remote(_AccuracyActor).options(
                name=name,
                num_cpus=needs.cpus,
                num_gpus=needs.gpus,
                memory=needs.memory_bytes or None,
                max_restarts=0,
            )
            slot.worker = actor.remote(self._factory, self._weights)
        else:
            resources = {f"device:{slot.device}": 1} if slot.device in self._tied else None
            lane = ray.remote(_LaneActor).options(name=name, num_cpus=0, resources=resources, max_restarts=0)
            slot.worker = lane.remote(self._factory, slot.device)
        slot.host = None
        self._ready(slot, False)
        self._hosts[slot.worker.host.remote()] = slot
        self._made[slot] = time.monotonic()
        self._starts[slot] = self._starts.get(slot, 0) + 1

    def _starting(self, slot: Slot) -> bool:
        return not slot.ready and slot.broken is None and time.monotonic() - self._made[slot] < STARTING_S

    def _learn_hosts(self, timeout_s: float) -> None:
        """Notes on which node each actor runs, as they come up."""
        if not self._hosts:
            return
        ready, _ = ray.wait(list(self._hosts), num_returns=1 if timeout_s else len(self._hosts), timeout=timeout_s)
        for ref in ready:
            slot = self._hosts.pop(ref)
            try:
                slot.host = ray.get(ref)
            except RayError as error:
                self._stillborn(slot, error)
                continue
            self._starts[slot] = 0
            self._ready(slot, True)

    def _stillborn(self, slot: Slot, error: RayError) -> None:
        """Starts a worker again that died before it was up, but not for ever."""
        death = _death(error)
        if self._elastic and isinstance(death, HostLost):
            self._starts[slot] = 0
        if self._starts[slot] < STARTS:
            self._make(slot)
        else:
            self._worker_failed(slot, None, 0, f"{death} {STARTS} times while it was starting")

    def _forget(self, slot: Slot) -> None:
        self._doubted.discard(slot)
        self._take_back(slot)
        for refs in (self._refs, self._hosts):
            for ref in [r for r, s in refs.items() if s is slot]:
                del refs[ref]

    def _replace(self, slot: Slot) -> None:
        self._forget(slot)
        ray.kill(slot.worker)
        self._make(slot)

    # -- jobs ----------------------------------------------------------------------------------------

    def wait(self, timeout_s: float = 1.0) -> list[Result]:
        """See `Executor.wait`.

        Raises:
            WorkerError: no worker comes up, the head is gone, or nothing has been up for too long for what waits.
        """
        if self._head is not None:
            self._head.check()
        self._look()
        results = super().wait(timeout_s)
        for _ in range(LARGEST if self._ahead else 0):
            more = super().wait(0.0)
            results += more
            if not more:
                break
        if results or self._refs or self.idle:
            self._progress = time.monotonic()
        elif time.monotonic() - self._progress > self._absent_s:
            absent = [s.device for s in self._lanes if s.device is not None and self._measurements[s.device]]
            missing = f"device {', '.join(absent)}" if absent and not self._evaluations else "an accuracy worker"
            raise WorkerError(
                f"{missing} must come up, but none did for {self._absent_s:g} s. "
                "Nothing is lost: the same command continues"
            )
        return results

    def _start(self, slot: Slot, job: Job) -> None:
        begun = self._ahead.begin(slot, job)
        if begun is None:
            self._refs[slot.worker.run.remote([job] if slot.device is None else job)] = slot
        elif begun.ref is not None:
            self._refs[begun.ref] = slot

    # -- work that lies ready where evaluations are short ----------------------------------------------

    def _open_to_more(self) -> list[Slot]:
        """Returns busy workers at which evaluations may lie; none while these are long or a timing is due.

        What was lost before runs alone, see `Ahead`.
        """
        if not self._ahead.group or any(s.job is not None or self._has_enough(s) for s in self._exclusive()):
            return []
        accuracy = (s for s in self._busy if s.device is None)
        return [s for s in accuracy if s not in self._doubted and not (s.attempt or s.moves)]

    @property
    def free(self) -> int:
        """See `Executor.free`; where evaluations are short, also those that may lie ready at a worker."""
        room = sum(map(self._ahead.room, self._open_to_more()))
        return super().free + max(0, room - max(0, len(self._evaluations) - len(self._resting)))

    def _schedule(self) -> None:
        super()._schedule()
        if self._evaluations:
            self._ahead.send(
                self._open_to_more(), self._evaluations, message=lambda slot, jobs: slot.worker.run.remote(jobs)
            )

    def _finish(self, slot: Slot, outcome: Any, *, replace_worker: bool = True) -> list[Result]:
        if type(outcome) is WorkerDied and (self._ahead.shares(slot) or self._ahead.behind(slot) is not None):
            outcome = GroupLost(str(outcome))
        results = super()._finish(slot, outcome, replace_worker=replace_worker)
        if slot.broken is not None:
            self._take_back(slot)
        elif (waiting := self._ahead.behind(slot)) is not None:
            self._run(slot, waiting)
        return results

    def _take_back(self, slot: Slot) -> None:
        """What lay behind a job that took its worker along waits again."""
        self._evaluations.extendleft(reversed(self._ahead.withdraw(slot)))

    def _collect(self, timeout_s: float) -> list[tuple[Slot, Any]]:
        self._learn_hosts(0.0 if self._refs else min(timeout_s, 0.25))
        if not self._refs:
            if not self._hosts:
                time.sleep(min(timeout_s, 0.01))
            return []
        # Workers that come up end the waiting, too: there may be work for them.
        refs = [*self._refs, *self._hosts] if self._evaluations else list(self._refs)
        ready, _ = ray.wait(refs, num_returns=1, timeout=timeout_s)
        if ready:
            ready, _ = ray.wait(list(self._refs), num_returns=len(self._refs), timeout=0)
        out: list[tuple[Slot, Any]] = []
        for ref in ready:
            slot = self._refs.pop(ref)
            try:
                answer = ray.get(ref)
                if slot in self._doubted:
                    out.append((slot, HostLost("its connection broke")))
                elif slot.device is None and isinstance(answer, list):
                    for timed in answer:
                        self._ahead.note(timed.seconds)
                        out.append((slot, timed.answer))
                else:
                    out.append((slot, answer))
            except ActorUnavailableError:
                self._doubted.add(slot)
                self._refs[slot.worker.host.remote()] = slot  # its answer will say what became of the worker
                continue
            except RayActorError as error:
                death = _death(error)
                out.append((slot, HostLost(str(death)) if self._host_is_gone(slot) else death))
            except RayTaskError as error:
                cause = error.cause if isinstance(error.cause, Exception) else error
                out.append((slot, GroupLost(one_line(cause)) if self._ahead.shares(slot) else cause))
            except (RayError, GetTimeoutError) as error:
                out.append((slot, WorkerDied(" ".join(str(error).split())[:200])))
        return out

    def _host_is_gone(self, slot: Slot) -> bool:
        return self._elastic and slot.host is not None and slot.host not in alive_nodes()

    def report(self, counts: Callable[[], RunCounts]) -> None:
        """Hands the run's numbers to the cluster's metrics."""
        if self._metrics is not None:
            n_busy = self.n_busy
            self._metrics.look(counts, n_workers=len(self._resting) + n_busy, n_busy=n_busy)

    def close(self) -> None:
        """Ends the actors, and Ray if this executor started it."""
        for slot in self.slots:
            if slot.worker is not None:
                ray.kill(slot.worker)
                slot.worker = None
        self._leave()

    def _leave(self) -> None:
        if self._owns_ray:
            ray.shutdown()
            if self._ledger is not None:
                end_leftovers(self._ledger)


def _death(error: RayError) -> WorkerDied:
    """Returns why an actor died, in one line."""
    text = str(error).lower()
    if "its node has died" in text or "node was terminated" in text:
        return HostLost("its node is gone")
    if "memory usage threshold" in text or "running low on memory" in text:  # every message mentions OOM
        return WorkerDied("the worker was killed because memory ran out")
    return WorkerDied("the worker died")
