"""The service under Ray Serve, started as users start it: answers, counts of all replicas, limits, a killed replica."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

from hwsearch import serve
from hwsearch.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
KEY = "a-key-for-tests-only"


def _served() -> ModuleType:
    path = ROOT / "tests/hwsearch/service/served.py"
    spec = importlib.util.spec_from_file_location("served_for_serve", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process, self.url = process, url

    def ask(self, path: str, body: Any = None, *, key: str | None = KEY) -> tuple[int, str, str]:
        """Returns status, media type and text."""
        headers = {"Content-Type": "application/json", **({} if key is None else {"X-API-Key": key})}
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, data, headers), timeout=30) as answer:
                return answer.status, answer.headers["Content-Type"], answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.headers["Content-Type"], error.read().decode()

    def replicas(self) -> list[psutil.Process]:
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if "ServeReplica:hwsearch" in " ".join(child.cmdline()):
                    found.append(child)
            except psutil.Error:
                continue
        return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("serve")
    files = _served().files(folder)
    (folder / "key").write_text(KEY)
    port = _free_port()
    command = [sys.executable, "-m", "hwsearch", "serve", *map(str, files), "--port", str(port), "--replicas", "2"]
    command += ["--api-key-file", str(folder / "key"), "--max-bytes", "100000", "--timeout-s", "20"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()  # printed when it answers; empty when it ended
        assert line.startswith(f"http://127.0.0.1:{port}/v1/predict"), line
        yield Server(process, f"http://127.0.0.1:{port}")
    finally:
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        finally:
            process.kill()
            for child in psutil.wait_procs(children, timeout=20)[1]:
                child.kill()


@pytest.mark.ray
def test_answers_limits_and_problems(server: Server) -> None:
    least = _served().LEAST
    status, media, text = server.ask("/v1/predict", {"architectures": [least, least], "devices": ["phone"]})
    assert (status, media) == (200, "application/json")
    assert json.loads(text)["predictions"][0]["name"] == "latency_ms@phone"
    for path, body, key, wanted in (
        ("/v1/devices", None, KEY, 200),
        ("/v1/devices", None, None, 401),
        ("/v1/devices", None, "another-key-altogether", 401),
        ("/v1/predict", b"x" * 100_001, KEY, 413),
        ("/v1/predict", b"{", KEY, 400),
        ("/v1/predict", {"architectures": least, "devices": ["tpu"]}, KEY, 422),
        ("/v2/predict", None, KEY, 404),
    ):
        status, media, text = server.ask(path, body, key=key)
        assert status == wanted, text
        if wanted != 200:
            assert media == "application/problem+json"
            assert json.loads(text)["status"] == wanted


@pytest.mark.ray
def test_no_port_of_a_replica_takes_pickles_from_strangers(server: Server, tmp_path: Path) -> None:
    """Ray Serve's own port between replicas listens on every address and unpickles; it must want the token."""
    grpc = pytest.importorskip("grpc")
    from ray.serve.generated import serve_pb2

    proof = tmp_path / "executed"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (proof,)

    message = serve_pb2.ASGIRequest(pickled_request_metadata=pickle.dumps(Evil())).SerializeToString()
    asked = 0
    for replica in server.replicas():
        for connection in replica.net_connections("tcp"):
            if connection.status != psutil.CONN_LISTEN:
                continue
            with grpc.insecure_channel(f"127.0.0.1:{connection.laddr.port}") as channel:
                call = channel.unary_unary("/ray.serve.ASGIService/HandleRequest")
                with pytest.raises(grpc.RpcError) as caught:
                    call(message, timeout=10)
            asked += caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert asked >= 2  # the port of each replica was found and refused
    assert not proof.exists()


@pytest.mark.ray
def test_survives_a_killed_replica_and_counts_on(server: Server) -> None:
    least = _served().LEAST
    for _ in range(10):
        assert server.ask("/v1/predict", {"architectures": least})[0] == 200
    first = {p.pid for p in server.replicas()}
    assert len(first) == 2
    time.sleep(2 * serve.REPORT_EVERY_S)  # what a replica counted in its last seconds dies with it
    before = _requests(server)
    assert before >= 10
    victim = min(first)
    os.kill(victim, signal.SIGKILL)
    # Connections that the kernel gives to a process while it dies are reset; what comes after must be answered.
    psutil.wait_procs([p for p in server.replicas() if p.pid == victim], timeout=10)
    statuses, n_reset, end = [], 0, time.monotonic() + 90
    while time.monotonic() < end:
        try:
            statuses.append(server.ask("/v1/predict", {"architectures": least})[0])
        except ConnectionResetError:
            n_reset += 1  # a connection that the kernel had given to the dying process already
        alive = {p.pid for p in server.replicas()} - {victim}
        if len(alive) == 2 and len(statuses) > 20:
            break
        time.sleep(0.1)
    else:
        pytest.fail(f"the killed replica was not replaced; answers: {statuses}")
    # A request that was inside the replica when it died may fail; nobody was, and later ones must not.
    assert statuses == [200] * len(statuses)
    assert n_reset <= 1
    assert _requests(server) >= before + len(statuses) - 1


def _requests(server: Server) -> float:
    """Returns how many predictions all replicas say they answered, from whichever replica answers."""
    time.sleep(serve.REPORT_EVERY_S + 0.5)
    status, media, text = server.ask("/metrics")
    assert status == 200
    assert media.startswith("text/plain")
    wanted = 'hwsearch_requests_total{method="POST",path="/v1/predict",status="200"} '
    return float(next(line for line in text.splitlines() if line.startswith(wanted)).removeprefix(wanted))


# ---- without Ray -------------------------------------------------------------------------------------------------


def test_board_sums_what_replicas_report() -> None:
    from hwsearch.service.telemetry import Snapshot

    board = serve.Board()
    first, second = Snapshot({("a", ()): 1.0}), Snapshot({("a", ()): 2.0})
    assert board.report("x", 10, first) == [first]
    assert board.report("y", 11, second) == [first, second]
    assert board.report("x", 10, second) == [second, second]
    assert board.processes() == [10, 11]


def test_a_replica_that_no_longer_serves_is_ill(tmp_path: Path) -> None:
    from hwsearch.service.settings import Settings

    class Silent:
        report = type("Report", (), {"remote": staticmethod(lambda *_: None)})

    files = _served().files(tmp_path)
    assert serve.Replica(files, None, Settings(), Silent()).check_health() is None  # the proxy's, with no server
    replica = serve.Replica(files, None, Settings(), Silent(), ("127.0.0.1", _free_port()))
    replica.check_health()
    assert replica._door is not None
    replica._door.close()
    with pytest.raises(RuntimeError, match="the HTTP server of this replica must run, but it has ended"):
        replica.check_health()


def test_key_is_read_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HWSEARCH_API_KEY", raising=False)
    assert serve.read_key(None) is None
    monkeypatch.setenv("HWSEARCH_API_KEY", KEY)
    (tmp_path / "key").write_text(f"{KEY}\n")
    assert serve.read_key(None) == serve.read_key(tmp_path / "key")
    (tmp_path / "key").write_text("short")
    with pytest.raises(UserError, match="must have at least 16 characters, but got 5"):
        serve.read_key(tmp_path / "key")
    with pytest.raises(UserError, match=r"the API key must be in a text file, but .* cannot be read"):
        serve.read_key(tmp_path / "none")


@pytest.mark.parametrize(
    ("host", "local"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("a.b", False)]
)
def test_local_addresses(host: str, local: bool) -> None:
    assert serve.is_local(host) is local


def test_bad_arguments_start_nothing(tmp_path: Path) -> None:
    file = _served().files(tmp_path)[0]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for paths, given, line in (
            ([], {"port": _free_port()}, "there must be at least one predictor file or run folder"),
            ([file], {"replicas": 0}, "replicas must be at least 1, but got 0."),
            ([file], {"port": port}, f"the service must be able to listen on 127.0.0.1 port {port}, but"),
        ):
            with pytest.raises(UserError, match=line), serve.serving(paths, **given):
                pass


def test_ray_of_its_own_must_come_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    with (
        pytest.raises(RuntimeError, match="must be started before anything else imports ray"),
        serve.serving([_served().files(tmp_path)[0]], port=_free_port()),
    ):
        pass
