"""A process's own HTTP server on a port that all replicas of a machine share: no proxy stands in between."""

from __future__ import annotations

import socket
import threading
import time

from starlette.types import ASGIApp

START_S = 30.0
KEEP_ALIVE_S = 30
BACKLOG = 512


def can_share() -> bool:
    """Returns whether several processes may listen on one port here, and the kernel deals out connections."""
    return hasattr(socket, "SO_REUSEPORT")


def shared_socket(host: str, port: int) -> socket.socket:
    """Returns a bound socket, not listening yet, on a port that other processes of this user may share.

    Raises:
        OSError: somebody else has the port.
    """
    family, kind, protocol, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(target)
    except OSError:
        made.close()
        raise
    return made


class Door:
    """Serves an application in a thread of its own; answers when the constructor returns.

    Args:
        app: ASGI application.
        host: to listen on.
        port: to listen on, shared.

    Raises:
        OSError: somebody else has the port.
        RuntimeError: the server did not start.
    """

    def __init__(self, app: ASGIApp, host: str, port: int) -> None:
        import uvicorn

        self._socket = shared_socket(host, port)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            backlog=BACKLOG,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True, name="hwsearch-http"
        )
        self._thread.start()
        end = time.monotonic() + START_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > end:
                raise RuntimeError(f"an HTTP server must start on {host} port {port}, but it did not.")
            time.sleep(0.01)

    @property
    def open(self) -> bool:
        """Whether it still serves."""
        return self._thread.is_alive() and not self._server.should_exit

    def close(self) -> None:
        """Stops listening; requests that are being answered come to their end."""
        self._server.should_exit = True
