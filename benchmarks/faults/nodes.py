"""Ray nodes on one machine that can be killed: of Ray's own test cluster, or `ray start` in network namespaces."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import deque
from pathlib import Path
from typing import Any, Protocol

import psutil

STORE_BYTES = 80 * 2**20
CPUS = 2
SUBNET = "10.77.0"
BRIDGE = "hwbr0"
MARK, OURS = "HWSEARCH_FAULTS", "HWSEARCH_FAULTS_NODES"
"""Environment variables by which the processes of a script, and of its nodes alone, are found again."""


class Nodes(Protocol):
    """A head without cores, and nodes with two each."""

    address: str

    def add(self) -> None:
        """Starts a node; raises RuntimeError where Ray does not start it in its own time limit."""
        ...

    def kill_oldest(self) -> str:
        """Ends a node without a word to anybody; returns what was done."""
        ...

    def close(self) -> None: ...


class TestCluster:
    """`ray.cluster_utils.Cluster`."""

    __test__ = False

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "object_store_memory": STORE_BYTES, "include_dashboard": False}
        self._cluster, self._nodes = Cluster(initialize_head=True, head_node_args=head), deque[Any]()
        self.address = str(self._cluster.address)

    def add(self) -> None:
        self._nodes.append(self._cluster.add_node(num_cpus=CPUS, object_store_memory=STORE_BYTES))

    def kill_oldest(self) -> str:
        self._cluster.remove_node(self._nodes.popleft(), allow_graceful=False)
        return "its raylet was killed"

    def close(self) -> None:
        self._cluster.shutdown()  # type: ignore[no-untyped-call]


def _call(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


class Namespaces:
    """Real `ray start` processes: the head on a bridge of this machine, each node in a network namespace of its own.

    Needs root. Nodes are lost in two ways in turn: all processes are killed, or the cable is pulled and the
    processes go on for themselves until the end.
    """

    def __init__(self) -> None:
        self._names: deque[str] = deque()
        self._unplugged: list[str] = []
        self._n = 0
        self._folder = tempfile.TemporaryDirectory(prefix="hwray-")
        self._ray = str(Path(sys.executable).with_name("ray"))
        self.address = f"{SUBNET}.1:6399"
        self._mark = uuid.uuid4().hex
        self._environment = {**os.environ, OURS: self._mark}
        _call("ip", "link", "add", BRIDGE, "type", "bridge")
        _call("ip", "addr", "add", f"{SUBNET}.1/24", "dev", BRIDGE)
        _call("ip", "link", "set", BRIDGE, "up")
        self._start((), f"{SUBNET}.1", "--head", "--port=6399", "--num-cpus=0", "--include-dashboard=false")

    def _start(self, within: tuple[str, ...], ip: str, *arguments: str) -> None:
        store = f"--object-store-memory={STORE_BYTES}"
        command = [*within, self._ray, "start", f"--node-ip-address={ip}", store, "--disable-usage-stats", *arguments]
        with (Path(self._folder.name) / f"{ip}.log").open("wb") as log:  # no pipe: the processes would keep it open
            code = subprocess.call(command, stdout=log, stderr=log, start_new_session=True, env=self._environment)
        if code != 0:
            raise RuntimeError(Path(log.name).read_text()[-2000:])

    def add(self) -> None:
        self._n += 1
        name, ip, link = f"hwnode{self._n}", f"{SUBNET}.{10 + self._n}", f"hwv{self._n}"
        _call("ip", "netns", "add", name)
        _call("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        _call("ip", "link", "set", link, "master", BRIDGE, "up")
        within = ("ip", "netns", "exec", name)
        _call(*within, "ip", "addr", "add", f"{ip}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _call(*within, "ip", "link", "set", device, "up")
        try:
            self._start(within, ip, f"--address={self.address}", f"--num-cpus={CPUS}")
        except RuntimeError:
            self._end(name)
            raise
        self._names.append(name)

    def kill_oldest(self) -> str:
        name = self._names.popleft()
        number = int(name.removeprefix("hwnode"))
        if number % 2 == 0:
            _call("ip", "link", "set", f"hwv{number}", "down")
            self._unplugged.append(name)
            return "its cable was pulled"
        self._end(name)
        return "all its processes were killed"

    def _end(self, name: str) -> None:
        pids = subprocess.run(["ip", "netns", "pids", name], check=True, capture_output=True, text=True).stdout
        for pid in pids.split():
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                continue
        # With the last socket in it a link would go by itself, but not before.
        subprocess.call(["ip", "link", "del", f"hwv{name.removeprefix('hwnode')}"], stderr=subprocess.DEVNULL)
        for _ in range(50):
            if subprocess.call(["ip", "netns", "del", name], stderr=subprocess.DEVNULL) == 0:
                break
            time.sleep(0.1)

    def _ours(self) -> list[psutil.Process]:
        """Returns every process that a `ray start` of this object led to, wherever it is now."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(OURS) == self._mark:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def close(self) -> None:
        for name in (*self._names, *self._unplugged):
            self._end(name)
        for process in self._ours():  # `ray stop` would end every Ray of this machine
            process.kill()
        _call("ip", "link", "del", BRIDGE)
        self._folder.cleanup()
