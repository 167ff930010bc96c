"""The HTTP server of a replica: answers at once, shares its port with siblings only, stops."""

from __future__ import annotations

import http.client
import socket
import time

import pytest

from hwsearch.service import door
from hwsearch.service.catalog import Catalog
from hwsearch.service.door import Door, can_share, shared_socket
from hwsearch.service.web import Service

pytestmark = pytest.mark.skipif(not can_share(), reason="this system cannot share ports")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def status(port: int, path: str = "/v1/space") -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        assert answer.getheader("server") is None  # what runs here is nobody's business
        return answer.status
    finally:
        connection.close()


def closed(one: Door) -> None:
    one.close()
    end = time.monotonic() + 10
    while one.open or one._thread.is_alive():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_two_doors_share_a_port_and_one_is_enough(catalog: Catalog) -> None:
    port = free_port()
    held = shared_socket("127.0.0.1", port)  # bound and not listening: gets no connection
    first, second = (Door(Service(catalog).app, "127.0.0.1", port) for _ in range(2))
    assert first.open and second.open
    assert {status(port) for _ in range(20)} == {200}
    assert status(port, "/nowhere") == 404
    closed(first)
    assert not first.open
    assert {status(port) for _ in range(20)} == {200}
    closed(second)
    with pytest.raises(ConnectionRefusedError):
        status(port)
    held.close()


def test_a_port_of_somebody_else_is_not_shared(catalog: Catalog) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(OSError, match="in use"):
            Door(Service(catalog).app, "127.0.0.1", other.getsockname()[1])


def test_bytes_that_are_no_http(catalog: Catalog) -> None:
    port = free_port()
    one = Door(Service(catalog).app, "127.0.0.1", port)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 400")
    assert status(port) == 200
    closed(one)


def test_a_server_that_does_not_start(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uvicorn.Server.run", lambda self, sockets: None)
    monkeypatch.setattr(door, "START_S", 1.0)
    port = free_port()
    with pytest.raises(RuntimeError, match=f"an HTTP server must start on 127.0.0.1 port {port}, but it did not"):
        Door(Service(catalog).app, "127.0.0.1", port)
