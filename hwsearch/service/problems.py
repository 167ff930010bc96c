"""Problem documents (RFC 9457): every error of the service is one, with one clear line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus

from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"
MAX_DETAIL = 500


def content(status: int, detail: str) -> dict[str, str | int]:
    """Returns a problem document; `about:blank` says that the status tells the kind (RFC 9457, 4.2.1)."""
    line = " ".join(detail.split())
    line = line if len(line) <= MAX_DETAIL else line[: MAX_DETAIL - 3] + "..."
    return {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": line}


def problem(status: int, detail: str, *, headers: Mapping[str, str] | None = None) -> Response:
    """Returns a response with a problem document. ASCII only: a detail may quote halves of surrogate pairs."""
    body = json.dumps(content(status, detail), ensure_ascii=True).encode()
    return Response(body, status_code=status, media_type=MEDIA_TYPE, headers=None if headers is None else dict(headers))
