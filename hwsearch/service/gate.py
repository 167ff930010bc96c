"""What stands before the application: the key, the size, the time and the number of requests, and the count of all."""

from __future__ import annotations

import asyncio
import logging
import time

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hwsearch.service.problems import problem
from hwsearch.service.settings import Settings
from hwsearch.service.telemetry import Telemetry

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"})
OTHER = "other"
"""Label of paths and methods that are not ours: labels must be few."""

FAILED = "the service failed; its log says why."

log = logging.getLogger("hwsearch.service")


class Refused(Exception):
    """A request that goes no further, with its answer."""

    def __init__(self, answer: Response) -> None:
        super().__init__("refused")
        self.answer = answer


class Gate:
    """An ASGI application around another: the body is read whole, within limits, before anything looks at it.

    Args:
        app: the application.
        settings: limits and key.
        telemetry: counts every request.
        paths: that are ours, as labels.
    """

    def __init__(self, app: ASGIApp, settings: Settings, *, telemetry: Telemetry, paths: frozenset[str]) -> None:
        self.app, self.settings, self.telemetry, self.paths = app, settings, telemetry, paths
        self.pending = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request; anything but HTTP goes straight through."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500
        begun = False

        async def counted(message: Message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                status, begun = message["status"], True
            await send(message)

        self.pending += 1
        try:
            try:
                body = await self._admit(scope, receive)
                await asyncio.wait_for(self.app(scope, _replay(body, receive), counted), self.settings.timeout_s)
            except Refused as refused:
                await refused.answer(scope, receive, counted)
            except TimeoutError:
                if not begun:
                    answer = problem(504, f"an answer must be there in {self.settings.timeout_s:g} s, but it was not.")
                    await answer(scope, receive, counted)
            except Exception:
                log.exception("a request failed")
                if not begun:
                    await problem(500, FAILED)(scope, receive, counted)
        finally:
            self.pending -= 1
            path = scope["path"] if scope["path"] in self.paths else OTHER
            method = scope["method"] if scope["method"] in METHODS else OTHER
            labels = {"path": path, "method": method}
            self.telemetry.add("hwsearch_requests_total", {**labels, "status": str(status)})
            self.telemetry.observe("hwsearch_request_seconds", labels, time.perf_counter() - started)

    async def _admit(self, scope: Scope, receive: Receive) -> bytes:
        """Returns the body of a request that may pass. Raises Refused for another one."""
        headers = dict(scope["headers"])  # names are lower case in ASGI; of repeated ones the last counts
        if not self.settings.admits(_key(headers)):
            line = "the request must have the service's key as X-API-Key or as Authorization: Bearer."
            raise Refused(problem(401, line, headers={"WWW-Authenticate": 'Bearer realm="hwsearch"'}))
        if self.pending > self.settings.max_pending:
            line = f"at most {self.settings.max_pending} requests may be pending, but there are more."
            raise Refused(problem(503, line, headers={"Retry-After": "1"}))
        try:
            length = int(headers.get(b"content-length", b"0"))
        except ValueError:
            raise Refused(problem(400, "the Content-Length must be a number.")) from None
        if length > self.settings.max_bytes:
            raise Refused(self._too_large(length))
        try:
            return await asyncio.wait_for(self._body(receive), self.settings.timeout_s)
        except TimeoutError:
            line = f"the body must arrive in {self.settings.timeout_s:g} s, but it did not."
            raise Refused(problem(408, line, headers={"Connection": "close"})) from None

    async def _body(self, receive: Receive) -> bytes:
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Refused(problem(400, "the connection was closed before the body had arrived."))
            part = message.get("body", b"")
            size += len(part)
            if size > self.settings.max_bytes:
                raise Refused(self._too_large(size))
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)

    def _too_large(self, size: int) -> Response:
        line = f"a request must have at most {self.settings.max_bytes:,} bytes, but it has {size:,} or more."
        return problem(413, line, headers={"Connection": "close"})


def _key(headers: dict[bytes, bytes]) -> bytes | None:
    given = headers.get(b"x-api-key")
    if given is not None:
        return given
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else None


def _replay(body: bytes, receive: Receive) -> Receive:
    """Returns a `receive` that hands out a body that was already read, and then waits for the disconnect."""
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
