"""The web application: routes around a catalog. It knows nothing of Ray."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic_core import from_json, to_json
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp

from hwsearch import __version__
from hwsearch.errors import UserError
from hwsearch.objectives import Objective
from hwsearch.service import messages, telemetry
from hwsearch.service.catalog import Catalog, RequestError, TooLargeError
from hwsearch.service.gate import FAILED, Gate
from hwsearch.service.prediction import predict
from hwsearch.service.problems import MEDIA_TYPE, problem
from hwsearch.service.ranking import Query, limited, query, wanted
from hwsearch.service.settings import Settings
from hwsearch.service.telemetry import Snapshot, Telemetry

T = TypeVar("T")
NOT_JSON = "the body must be JSON, but it is not."
INLINE = 32
"""Architectures that are predicted without a thread: starting one would take longer."""

Gather = Callable[[Snapshot], Awaitable[Iterable[Snapshot]]]
"""This process's counters -> those of all replicas, this one included."""


async def alone(own: Snapshot) -> Iterable[Snapshot]:
    """Returns the counters of a service that is one process."""
    return [own]


class _Request(Request):
    """A request whose JSON is read by pydantic's parser, which takes half the time of Python's."""

    async def json(self) -> Any:
        return from_json(await self.body())


class _Route(APIRoute):
    """A route of `_Request`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def handler(request: Request) -> Response:
            return await answer(_Request(request.scope, request.receive))

        return handler


class _JSON(JSONResponse):
    """An answer written by pydantic's serialiser, which takes a tenth of the time of Python's."""

    def render(self, content: Any) -> bytes:
        return to_json(content, inf_nan_mode="null")


class Service:
    """A catalog behind HTTP. `app` is the ASGI application with all limits; everything else is for tests and Ray.

    Args:
        catalog: what is known.
        settings: limits and key.
        gather: asks the other replicas for their counters.
    """

    def __init__(self, catalog: Catalog, *, settings: Settings | None = None, gather: Gather = alone) -> None:
        self.catalog = catalog
        self.settings = settings or Settings()
        self.gather = gather
        self.telemetry = Telemetry()
        self._limiter: anyio.CapacityLimiter | None = None
        self.api = self._api()
        paths = frozenset(self.api.openapi()["paths"]) | {"/openapi.json"}
        self.app: ASGIApp = Gate(self.api, self.settings, telemetry=self.telemetry, paths=paths)

    # -- answers ---------------------------------------------------------------------------------------

    async def predict(self, body: messages.PredictRequest) -> Response:
        """Predict metrics of one or many architectures."""
        small = not isinstance(body.architectures, list) or len(body.architectures) <= INLINE
        answer = partial(
            predict,
            self.catalog,
            body.architectures,
            metrics=body.metrics,
            devices=body.devices,
            level=body.level,
            limit=self.settings.max_architectures,
        )

        def work() -> Response:
            content = answer()
            for column in content["predictions"]:
                self.telemetry.add("hwsearch_predictions_total", {"metric": column["name"]}, content["count"])
            return _JSON(content)

        return work() if small else await self._in_thread(work)

    async def query(self, body: messages.QueryRequest) -> Response:
        """Find the best architectures under limits, among stored trials and by prediction; each says which it is."""
        for name, limit in (("count", self.settings.max_answers), ("candidates", self.settings.max_candidates)):
            if getattr(body, name) > limit:
                raise TooLargeError(f"{name} must be at most {limit:,}, but got {getattr(body, name):,}.")
        return await self._in_thread(lambda: _JSON(self._query(body)))

    def _query(self, body: messages.QueryRequest) -> dict[str, Any]:
        prefer = wanted(self.catalog, body.prefer, direction=body.direction)
        limits: list[Objective] = []
        for bound in body.limits:
            limits += limited(self.catalog, bound.metric, device=bound.device, at_least=bound.min, at_most=bound.max)
        asked = Query(
            prefer,
            tuple(limits),
            sources=tuple(dict.fromkeys(body.sources)),
            count=body.count,
            candidates=body.candidates,
            seed=body.seed,
            level=body.level,
            cautious=body.cautious,
        )
        return {
            "space": self.catalog.space.fingerprint,
            "prefer": prefer.name,
            "direction": prefer.direction,
            "answers": query(self.catalog, asked),
        }

    async def devices(self) -> Response:
        """Show devices and metrics, and how good each predictor was in cross-validation."""
        return _JSON(describe(self.catalog))

    async def space(self) -> Response:
        """Show the genes that architectures are made of."""
        space = self.catalog.space
        genes = [
            {
                "name": gene.name,
                "choices": list(gene.choices),
                "active_when": {c.gene: list(c.values) for c in gene.active_when},
            }
            for gene in space.genes
        ]
        return _JSON({"fingerprint": space.fingerprint, "size": str(space.size()), "genes": genes})

    async def metrics(self) -> Response:
        """Count requests and predictions of all replicas, for Prometheus."""
        snapshots = await self.gather(self.telemetry.snapshot())
        return PlainTextResponse(telemetry.exposition(snapshots), media_type=telemetry.MEDIA_TYPE)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Returns what a thread computed; a request that runs out of time stops waiting, the thread ends by itself."""
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(self.settings.threads)
        return await anyio.to_thread.run_sync(work, limiter=self._limiter, abandon_on_cancel=True)

    # -- the application -------------------------------------------------------------------------------

    def _api(self) -> FastAPI:
        # The pages that FastAPI would make of the document load scripts from elsewhere: only the document is served.
        api = FastAPI(
            title="hwsearch",
            version=__version__,
            summary="Predictions of network metrics, and the best architectures under limits.",
            docs_url=None,
            redoc_url=None,
        )
        api.router.route_class = _Route
        post: dict[int | str, dict[str, Any]] = {
            status: {"description": text, "content": {MEDIA_TYPE: {"schema": _ref("Problem")}}}
            for status, text in {
                400: "Not JSON.",
                408: "The body took too long.",
                413: "Too large.",
                422: "Something is unknown or impossible.",
                503: "Too many requests at once.",
                504: "The answer took too long.",
            }.items()
        }
        get: dict[int | str, dict[str, Any]] = {status: post[status] for status in (503, 504)}
        if self.settings.key_digest is not None:
            refused = {"description": "No key, or a wrong one.", "content": post[400]["content"]}
            post, get = {401: refused, **post}, {401: refused, **get}
        route = partial(api.add_api_route, response_class=JSONResponse)
        route("/v1/predict", self.predict, methods=["POST"], responses={200: _ok("PredictAnswer"), **post})
        route("/v1/query", self.query, methods=["POST"], responses={200: _ok("QueryAnswer"), **post})
        route("/v1/devices", self.devices, methods=["GET"], responses={200: _ok("DevicesAnswer"), **get})
        route("/v1/space", self.space, methods=["GET"], responses={200: _ok("SpaceAnswer"), **get})
        text = {"description": "Prometheus' text format.", "content": {"text/plain": {"schema": {"type": "string"}}}}
        api.add_api_route("/metrics", self.metrics, response_class=Response, responses={200: text, **get})
        api.add_exception_handler(RequestError, _refuse)
        api.add_exception_handler(UserError, _refuse)
        api.add_exception_handler(RequestValidationError, _invalid)
        api.add_exception_handler(HTTPException, _http)
        api.add_exception_handler(Exception, _fail)
        api.openapi = partial(self._document, api)  # type: ignore[method-assign]
        return api

    def _document(self, api: FastAPI) -> dict[str, Any]:
        """Returns the OpenAPI document, with the space's own schema of architectures."""
        if api.openapi_schema is None:
            document = get_openapi(title=api.title, version=api.version, summary=api.summary, routes=api.routes)
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            for model in (
                messages.PredictAnswer,
                messages.QueryAnswer,
                messages.DevicesAnswer,
                messages.SpaceAnswer,
                messages.Problem,
            ):
                made = model.model_json_schema(ref_template="#/components/schemas/{model}", mode="serialization")
                schemas.update(made.pop("$defs", {}))
                schemas[model.__name__] = made
            schemas.update(messages.space_schemas(self.catalog.space))
            limits = self.settings
            schemas["QueryRequest"]["properties"]["count"]["maximum"] = limits.max_answers
            schemas["QueryRequest"]["properties"]["candidates"]["maximum"] = limits.max_candidates
            for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own form of errors, not ours
                schemas.pop(name, None)
            if limits.key_digest is not None:
                document["components"]["securitySchemes"] = {
                    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                    "bearer": {"type": "http", "scheme": "bearer"},
                }
                document["security"] = [{"key": []}, {"bearer": []}]
            api.openapi_schema = document
        return api.openapi_schema


def describe(catalog: Catalog) -> dict[str, Any]:
    """Returns the content of an answer to `GET /v1/devices`."""
    cards: list[dict[str, Any]] = []
    for name in catalog.names:
        entry = catalog.entries.get(name)
        metric, _, device = name.partition("@")
        cards.append(
            {
                "name": name,
                "metric": metric,
                "device": device or None,
                "unit": catalog.units.get(name, ""),
                "direction": catalog.direction(name),
                "kind": "measured" if entry is None else entry.kind,
                "model": None if entry is None else entry.model,
                "n_rows": None if entry is None or entry.predictor is None else entry.n_rows,
                "report": dict(entry.report) if entry is not None and entry.report else None,
            }
        )
    devices = [{"device": d, "metrics": [c["name"] for c in cards if c["device"] == d]} for d in catalog.devices]
    return {
        "space": catalog.space.fingerprint,
        "n_trials": len(catalog.trials),
        "devices": devices,
        "metrics": cards,
    }


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _ok(name: str) -> dict[str, Any]:
    return {"description": "The answer.", "content": {"application/json": {"schema": _ref(name)}}}


async def _refuse(request: Request, error: Exception) -> Response:
    return problem(error.status if isinstance(error, RequestError) else 422, str(error))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return problem(404, "the path must be one of those in /openapi.json, but it is not.")
    if error.status_code == 405:
        return problem(405, "the path must be asked with one of the methods in Allow.", headers=error.headers)
    if error.status_code == 400:  # a body that no JSON reader takes: nested too deeply, a number too long, not UTF-8
        return problem(400, NOT_JSON)
    return problem(error.status_code, str(error.detail), headers=error.headers)


async def _fail(request: Request, error: Exception) -> Response:
    """Answers what nobody expected; the error goes on to the gate, which logs it."""
    return problem(500, FAILED)


async def _invalid(request: Request, error: Exception) -> Response:
    """Answers a request that does not fit its model: the first problem, with its place and no echo of the value."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return problem(400, NOT_JSON)
    if first["loc"] == ("body",):
        return problem(422, "the body must be a JSON object, sent as application/json, but it is not.")
    place = ".".join(str(part)[:60] for part in first["loc"] if part != "body") or "the body"
    if first["type"] == "extra_forbidden":
        return problem(422, f"{place} is not a member of this request.")
    return problem(422, f"{place}: {first['msg'][0].lower()}{first['msg'][1:]}.")
