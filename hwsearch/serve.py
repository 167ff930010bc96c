"""`hwsearch serve`: the prediction service as replicas in Ray Serve. What it answers is in `hwsearch/service/`."""

from __future__ import annotations

import ipaddress
import logging
import os
import secrets
import socket
import sys
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwsearch import build
from hwsearch.errors import UserError, missing_extra
from hwsearch.service.catalog import Catalog
from hwsearch.service.door import Door, can_share, shared_socket
from hwsearch.service.loading import load
from hwsearch.service.settings import Settings, digest
from hwsearch.service.telemetry import Snapshot

NAME = "hwsearch"
REPORT_EVERY_S = 2.0
OBJECT_STORE_BYTES = 100 * 2**20
MIN_KEY_LENGTH = 16


def read_key(file: Path | None) -> bytes | None:
    """Returns the digest of the API key in a file, else of HWSEARCH_API_KEY, else None. Never from the command line.

    Raises:
        UserError: no such file, or a key that is too short to be one.
    """
    if file is None:
        key = os.environ.get("HWSEARCH_API_KEY", "").strip()
        if not key:
            return None
    else:
        try:
            key = file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"the API key must be in a text file, but {file} cannot be read: {error}.") from error
    if len(key) < MIN_KEY_LENGTH:
        raise UserError(f"an API key must have at least {MIN_KEY_LENGTH} characters, but got {len(key)}.")
    return digest(key.encode())


def is_local(host: str) -> bool:
    """Returns whether only this machine can reach an address to listen on."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def open_catalog(paths: Sequence[Path], config: Path | None) -> Catalog:
    """Returns the catalog of predictor files and run folders."""
    return load(paths, plan_of=lambda raw, source: build.load_raw(raw, source=source), config=config)


class Board:
    """Keeps the latest counters of every replica, so that any of them can answer for all; an actor.

    Those of a replica that died stay: a counter never falls.
    """

    def __init__(self) -> None:
        self.snapshots: dict[str, Snapshot] = {}
        self.pids: dict[str, int] = {}

    def report(self, replica: str, pid: int, snapshot: Snapshot) -> list[Snapshot]:
        """Stores a replica's counters and returns those of all."""
        self.snapshots[replica], self.pids[replica] = snapshot, pid
        return list(self.snapshots.values())

    def processes(self) -> list[int]:
        """Returns the process of every replica that ever reported, in order of their first report."""
        return list(self.pids.values())


class Replica:
    """One process of the service. Loads everything anew from the files: nothing is unpickled from them.

    Args:
        paths, config: see `open_catalog`.
        settings: limits and key.
        board: handle of the `Board`.
        listen: host and port to serve itself, shared with its siblings; None leaves HTTP to Ray Serve's proxy.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        config: Path | None,
        settings: Settings,
        board: Any,
        listen: tuple[str, int] | None = None,
    ) -> None:
        from hwsearch.service.web import Service

        self._id, self._board = uuid.uuid4().hex, board
        self._service = Service(open_catalog(paths, config), settings=settings, gather=self._gather)
        self._stop = threading.Event()
        self._door = None if listen is None else Door(self._service.app, *listen)
        threading.Thread(target=self._report, daemon=True, name="hwsearch-report").start()

    def check_health(self) -> None:
        """Raises RuntimeError when this process no longer serves; Ray Serve asks, and replaces it then."""
        if self._door is not None and not self._door.open:
            raise RuntimeError("the HTTP server of this replica must run, but it has ended.")

    def __serve_build_asgi_app__(self) -> Any:
        """Returns the application; Ray Serve asks for it once."""
        return self._service.app

    async def _gather(self, own: Snapshot) -> Iterable[Snapshot]:
        found: list[Snapshot] = await self._board.report.remote(self._id, os.getpid(), own)
        return found

    def _report(self) -> None:
        while True:
            self._board.report.remote(self._id, os.getpid(), self._service.telemetry.snapshot())
            if self._stop.wait(REPORT_EVERY_S):
                return

    def __del__(self) -> None:
        stop, door = getattr(self, "_stop", None), getattr(self, "_door", None)
        if stop is not None:
            stop.set()
        if door is not None:
            door.close()


@dataclass(frozen=True)
class Running:
    """A service that answers.

    Args:
        url: that it answers at.
        board: handle of the `Board`.
    """

    url: str
    board: Any

    def processes(self) -> list[int]:
        """Returns the process of every replica so far, dead ones included."""
        import ray

        found: list[int] = ray.get(self.board.processes.remote())
        return found


@contextmanager
def serving(
    paths: Sequence[Path],
    *,
    host: str = "127.0.0.1",
    port: int = 8642,
    replicas: int = 1,
    settings: Settings | None = None,
    config: Path | None = None,
    address: str | None = None,
) -> Iterator[Running]:
    """Serves predictor files and run folders until the context ends.

    With a Ray of our own every replica listens itself on the one port, and the kernel deals out connections: Ray
    Serve's proxy would cost more than the answers. Ray Serve starts, watches and replaces the replicas. On a cluster,
    whose nodes have different addresses, its proxy serves.

    Args:
        paths: files and folders; on a cluster every node must be able to read them.
        host: to listen on.
        port: to listen on.
        replicas: processes that answer; one that dies is replaced.
        settings: limits and key.
        config: see `open_catalog`.
        address: of a Ray cluster; None starts Ray here, reachable from this machine only.

    Raises:
        UserError: anything wrong with the arguments or the files; nothing has been started then.
        MissingExtraError: Ray Serve is not installed.
    """
    if replicas < 1:
        raise UserError(f"replicas must be at least 1, but got {replicas}.")
    settings = settings or Settings()
    paths = [path.resolve() for path in paths]
    config = None if config is None else config.resolve()
    if address is None:
        _check_port(host, port)
    open_catalog(paths, config)  # every mistake in the files shows here, before a process is started
    if address is None:
        _seclude()
    try:
        import ray
        from ray import serve
    except ImportError as error:
        raise missing_extra("ray[serve]", "serve", "hwsearch serve") from error
    here = not ray.is_initialized()
    direct = address is None and can_share()
    held = None
    try:
        if direct:
            held = shared_socket(host, port)  # keeps the port ours while no replica listens
        if here:
            _init(address)
        quiet = {"log_level": "WARNING", "enable_access_log": False}
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        serve.start(
            proxy_location="Disabled" if direct else "HeadOnly",
            http_options={"host": host, "port": port, "request_timeout_s": 2 * settings.timeout_s + 5},
            logging_config=quiet,
        )
        board = ray.remote(Board).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
        share = 1.0 if address is not None else min(1.0, (os.cpu_count() or 1) / (2 * replicas))
        deployment = serve.deployment(
            name=NAME,
            num_replicas=replicas,
            max_ongoing_requests=settings.max_pending,
            ray_actor_options={"num_cpus": share},
            health_check_period_s=2.0,
            health_check_timeout_s=10.0,
            graceful_shutdown_timeout_s=5.0,
            logging_config=quiet,
        )(Replica if direct else serve.ingress()(Replica))
        listen = (host, port) if direct else None
        bound = deployment.bind(paths, config, settings, board, listen)
        serve.run(bound, name=NAME, route_prefix=None if direct else "/")
        shown = f"[{host}]" if ":" in host else host
        yield Running(f"http://{shown}:{port}", board)
    finally:
        if held is not None:
            held.close()
        if ray.is_initialized():
            stop: Callable[[], Any] = serve.shutdown
            stop()
            if here:
                ray.shutdown()


def _seclude() -> None:
    """Prepares the environment of a Ray of our own that nobody else can talk to.

    Every replica of Ray Serve has a port for other replicas that listens on all addresses and unpickles what it is
    sent. Ray's token authentication closes it, and all other ports of Ray, to whoever is not a child of this process.

    Raises:
        RuntimeError: too late, as Ray has read its environment.
    """
    if "ray" in sys.modules:
        raise RuntimeError("a service must be started before anything else imports ray, but ray was imported.")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if os.environ.setdefault("RAY_AUTH_MODE", "token") == "token":
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # Ray's workers give way to everything else by default; those of a service have somebody waiting for them.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # The other ports then are on the loopback address; on Linux this name is the only switch for that.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


def _init(address: str | None) -> None:
    import ray

    if address is not None:
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except ConnectionError as error:
            raise UserError(f"--address must be a running Ray cluster, but {address!r} does not answer.") from error
        return
    ray.init(
        address="local",  # not a cluster that happens to run on this host
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=OBJECT_STORE_BYTES,
    )


def _check_port(host: str, port: int) -> None:
    """Raises UserError where the service could not listen: Ray would say so late and at length."""
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target)
    except (OSError, OverflowError) as error:
        raise UserError(f"the service must be able to listen on {host} port {port}, but: {error}.") from error
