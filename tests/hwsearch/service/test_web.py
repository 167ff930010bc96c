"""The application in process: routes, problem documents, key, limits; and schemathesis against its own document."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Sequence
from typing import Any

import pytest
from served import LEAST, SPACE
from starlette.testclient import TestClient

from hwsearch.errors import UserError
from hwsearch.service import web
from hwsearch.service.catalog import Catalog
from hwsearch.service.messages import PredictAnswer, QueryAnswer
from hwsearch.service.settings import Settings, digest
from hwsearch.service.web import Service

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def client(catalog: Catalog) -> TestClient:
    return TestClient(Service(catalog, settings=Settings(max_bytes=200_000, max_architectures=100)).app)


def check_problem(response: Any, status: int, line: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    content = response.json()
    assert content.keys() == {"type", "title", "status", "detail"}
    assert content["status"] == status
    assert line in content["detail"]
    assert "\n" not in content["detail"]


def test_predict(client: TestClient) -> None:
    response = client.post("/v1/predict", json={"architectures": [LEAST, {**LEAST, "first.kernel": 7}], "level": 0.8})
    assert response.status_code == 200
    PredictAnswer.model_validate(response.json())
    content = response.json()
    assert (content["count"], content["level"], content["space"]) == (2, 0.8, SPACE.fingerprint)
    assert [c["name"] for c in content["predictions"]] == ["latency_ms@cpu", "latency_ms@phone", "accuracy"]
    cpu = content["predictions"][0]
    assert (cpu["unit"], cpu["device"], cpu["model"], cpu["kind"]) == ("ms", "cpu", "ridge", "predicted")
    assert cpu["outside"] == [False, True]


def test_many_go_through_a_thread_and_come_out_the_same(client: TestClient) -> None:
    few = client.post("/v1/predict", json={"architectures": [LEAST]}).json()["predictions"]
    many = client.post("/v1/predict", json={"architectures": [LEAST] * (web.INLINE + 1)}).json()["predictions"]
    assert many[0]["mean"] == pytest.approx(few[0]["mean"] * (web.INLINE + 1))


def test_query(client: TestClient) -> None:
    body = {"prefer": "accuracy", "limits": [{"metric": "latency_ms", "device": "cpu", "max": 3}], "count": 2}
    content = client.post("/v1/query", json=body).json()
    QueryAnswer.model_validate(content)
    assert len(content["answers"]) == 2
    assert content["direction"] == "maximize"


def test_query_of_a_run(run_catalog: Catalog) -> None:
    client = TestClient(Service(run_catalog).app)
    content = client.post("/v1/query", json={"prefer": "latency_ms", "count": 1}).json()
    QueryAnswer.model_validate(content)
    assert [a["label"] for a in content["answers"]] == ["measured", "predicted"]
    devices = client.get("/v1/devices").json()
    assert devices["n_trials"] == 11
    assert devices["devices"] == [{"device": "cpu", "metrics": ["latency_ms@cpu"]}]


def test_devices_and_space(client: TestClient) -> None:
    content = client.get("/v1/devices").json()
    assert [d["device"] for d in content["devices"]] == ["cpu", "phone"]
    assert content["metrics"][0]["report"]["mape"] < 20
    genes = client.get("/v1/space").json()
    assert genes["size"] == str(SPACE.size())
    assert genes["genes"][2] == {"name": "second.kernel", "choices": [3, 5, 7], "active_when": {"depth": [2, 3]}}


def test_openapi_document_has_the_space(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert set(document["paths"]) == {"/v1/predict", "/v1/query", "/v1/devices", "/v1/space", "/metrics"}
    schemas = document["components"]["schemas"]
    assert schemas["Architecture"]["properties"]["first.kernel"] == {"enum": [3, 5, 7]}
    assert schemas["Architecture"]["required"] == ["depth", "first.kernel", "act", "se"]
    assert "HTTPValidationError" not in json.dumps(document)
    assert "security" not in document
    # No page that loads scripts from elsewhere.
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404


@pytest.mark.parametrize(
    ("body", "status", "line"),
    [
        ({"architectures": {**LEAST, "depth": 9}}, 422, "gene 'depth' must be one of [1, 2, 3], but got 9."),
        ({"architectures": LEAST, "devices": ["tpu"]}, 422, "the device must be one of ['cpu', 'phone']"),
        ({"architectures": LEAST, "metrics": ["speed"]}, 422, "the metric must be one of"),
        ({"architectures": [LEAST] * 101}, 413, "at most 100 architectures, but got 101"),
        ({"architectures": LEAST, "level": 1.5}, 422, "level: input should be less than or equal to 0.999."),
        ({"architectures": LEAST, "level": "0.9"}, 422, "level: input should be a valid number."),
        ({"architectures": LEAST, "levels": 0.5}, 422, "levels is not a member of this request."),
        ({}, 422, "architectures: field required."),
        ([], 422, "the body must be a JSON object, sent as application/json"),
    ],
)
def test_bad_predictions(client: TestClient, body: Any, status: int, line: str) -> None:
    check_problem(client.post("/v1/predict", json=body), status, line)


@pytest.mark.parametrize(
    ("body", "status", "line"),
    [
        ({"prefer": "speed"}, 422, "'speed' is not known"),
        ({"prefer": "latency_ms"}, 422, "'latency_ms' is measured on more than one device"),
        ({"prefer": "accuracy", "limits": [{"metric": "accuracy"}]}, 422, "a limit must have min or max"),
        ({"prefer": "accuracy", "sources": ["guesses"]}, 422, "sources.0: input should be 'trials' or 'predictors'."),
        ({"prefer": "accuracy", "sources": ["trials"]}, 422, "no trials are stored here"),
        ({"prefer": "accuracy", "count": 0}, 422, "count: input should be greater than or equal to 1."),
        ({"prefer": "accuracy", "count": 10**6}, 413, "count must be at most 1,000, but got 1,000,000."),
        ({"prefer": "accuracy", "candidates": 10**9}, 413, "candidates must be at most 100,000"),
    ],
)
def test_bad_queries(client: TestClient, body: Any, status: int, line: str) -> None:
    check_problem(client.post("/v1/query", json=body), status, line)


@pytest.mark.parametrize(
    ("content", "status", "line"),
    [
        (b"{", 400, "the body must be JSON, but it is not."),
        (b"\xff\xfe", 400, "the body"),
        (b"[" * 100_000, 400, "the body must be JSON"),
        (b'{"architectures": [[' + b"9" * 10_000 + b"]]}", 400, "the body must be JSON"),
        (b'{"architectures": [[NaN, Infinity]]}', 422, "must have 6 choice indices"),
        (b'{"architectures": {"\\ud800": 1}}', 400, "the body must be JSON"),  # half a character is none
        (b'{"architectures": {"depth": "\\ud800"}}', 400, "the body must be JSON"),
        (b'{"\\ud800": 1, "architectures": 1}', 400, "the body must be JSON"),
        (b'{"architectures": 1, "level": NaN}', 422, "level: "),
        (b"x" * 200_001, 413, "at most 200,000 bytes, but it has 200,001 or more."),
    ],
)
def test_malformed_bodies(client: TestClient, content: bytes, status: int, line: str) -> None:
    check_problem(client.post("/v1/predict", content=content, headers=JSON), status, line)


def test_other_paths_and_methods(client: TestClient) -> None:
    check_problem(client.get("/nothing"), 404, "the path must be one of those in /openapi.json")
    answer = client.get("/v1/predict")
    check_problem(answer, 405, "must be asked with one of the methods in Allow")
    assert answer.headers["allow"] == "POST"
    check_problem(client.post("/v1/predict", content=b"x"), 422, "sent as application/json")


def test_key(catalog: Catalog) -> None:
    client = TestClient(Service(catalog, settings=Settings(key_digest=digest(b"secret"))).app)
    for headers in ({}, {"X-API-Key": "wrong"}, {"Authorization": "Basic secret"}, {"Authorization": "Bearer x"}):
        answer = client.get("/v1/devices", headers=headers)
        check_problem(answer, 401, "the request must have the service's key")
        assert "Bearer" in answer.headers["www-authenticate"]
    for headers in ({"X-API-Key": "secret"}, {"Authorization": "Bearer secret"}):
        assert client.get("/v1/devices", headers=headers).status_code == 200
    document = client.get("/openapi.json", headers={"X-API-Key": "secret"}).json()
    assert document["security"] == [{"key": []}, {"bearer": []}]
    # The key is looked at before the body.
    check_problem(client.post("/v1/predict", content=b"x" * 10), 401, "the request must have the service's key")


def test_metrics_count_everything_with_few_labels(catalog: Catalog) -> None:
    client = TestClient(Service(catalog).app)
    client.post("/v1/predict", json={"architectures": [LEAST] * 3, "metrics": ["accuracy"]})
    for path in ("/a", "/b"):
        client.get(path)
    client.request("BREW", "/v1/devices")
    text = client.get("/metrics").text
    assert 'hwsearch_predictions_total{metric="accuracy"} 3' in text
    assert 'hwsearch_requests_total{method="GET",path="other",status="404"} 2' in text
    assert 'hwsearch_requests_total{method="other",path="/v1/devices",status="405"} 1' in text
    assert 'hwsearch_request_seconds_count{method="POST",path="/v1/predict"} 1' in text


# ---- requests that come slowly, too many, or break -------------------------------------------------------------------


async def call(service: Service, parts: Sequence[bytes | float | None], *, headers=()) -> tuple[int, dict[str, Any]]:
    """Returns status and content of a prediction whose body comes in parts; a number waits, None hangs up."""
    left = list(parts)
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        while left and isinstance(left[0], float):
            await asyncio.sleep(left.pop(0))
        if not left:
            await asyncio.sleep(60)
        part = left.pop(0)
        if part is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": part, "more_body": bool(left)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/predict",
        "raw_path": b"/v1/predict",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), *headers],
        "http_version": "1.1",
        "scheme": "http",
        "server": ("test", 80),
        "client": ("test", 1),
        "asgi": {"version": "3.0"},
    }
    await service.app(scope, receive, send)
    body = b"".join(m.get("body", b"") for m in sent[1:])
    return sent[0]["status"], json.loads(body)


BODY = json.dumps({"architectures": LEAST}).encode()


def test_a_body_in_parts_is_one_body(catalog: Catalog) -> None:
    status, content = asyncio.run(call(Service(catalog), [BODY[:5], 0.01, BODY[5:]]))
    assert (status, content["count"]) == (200, 1)


def test_a_slow_body_is_given_up(catalog: Catalog) -> None:
    service = Service(catalog, settings=Settings(timeout_s=0.2))
    started = time.monotonic()
    status, content = asyncio.run(call(service, [BODY[:5], 30.0, BODY[5:]]))
    assert (status, content["detail"]) == (408, "the body must arrive in 0.2 s, but it did not.")
    assert time.monotonic() - started < 10


def test_a_body_that_grows_is_given_up(catalog: Catalog) -> None:
    service = Service(catalog, settings=Settings(max_bytes=1000))
    status, content = asyncio.run(call(service, [b" " * 600, b" " * 600, *[b" " * 600] * 9]))
    assert (status, content["status"]) == (413, 413)
    status, content = asyncio.run(call(service, [BODY], headers=[(b"content-length", b"1001")]))
    assert status == 413
    status, content = asyncio.run(call(service, [BODY], headers=[(b"content-length", b"many")]))
    assert (status, content["detail"]) == (400, "the Content-Length must be a number.")


def test_a_closed_connection_is_no_failure(catalog: Catalog) -> None:
    status, content = asyncio.run(call(Service(catalog), [BODY[:5], None]))
    assert (status, content["detail"]) == (400, "the connection was closed before the body had arrived.")


def test_an_answer_that_takes_too_long_is_given_up(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(catalog, settings=Settings(timeout_s=0.2))
    monkeypatch.setattr(web, "predict", lambda *_, **__: time.sleep(1.0))
    many = json.dumps({"architectures": [LEAST] * 100}).encode()
    status, content = asyncio.run(call(service, [many]))
    assert (status, content["detail"]) == (504, "an answer must be there in 0.2 s, but it was not.")


def test_too_many_at_once_are_sent_away(catalog: Catalog) -> None:
    service = Service(catalog, settings=Settings(max_pending=2))

    async def main() -> list[int]:
        answers = await asyncio.gather(*(call(service, [0.2, BODY]) for _ in range(5)))
        return [status for status, _ in answers]

    assert sorted(asyncio.run(main())) == [200, 200, 503, 503, 503]
    assert asyncio.run(call(service, [BODY]))[0] == 200  # and afterwards there is room again


def test_a_bug_is_a_problem_document_without_details(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("path /secret")

    monkeypatch.setattr(web, "predict", broken)
    # Libraries that configure logging switch off the loggers that are there before them.
    monkeypatch.setattr(logging.getLogger("hwsearch.service"), "disabled", False)
    status, content = asyncio.run(call(Service(catalog), [BODY]))
    assert status == 500
    assert "/secret" in caplog.text
    assert "/secret" not in json.dumps(content)


@pytest.mark.parametrize(("name", "value"), [("max_bytes", 0), ("threads", 0), ("timeout_s", 0.0)])
def test_settings_are_checked(name: str, value: float) -> None:
    with pytest.raises(UserError, match=f"{name} must be"):
        Settings(**{name: value})


# ---- against its own document ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["positive", "negative"])
@pytest.mark.parametrize("operation", ["POST /v1/predict", "POST /v1/query", "GET /v1/devices", "GET /v1/space"])
def test_requests_made_from_the_document_have_the_answers_it_promises(
    catalog: Catalog, operation: str, mode: str
) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis import GenerationMode, checks

    service = Service(catalog, settings=Settings(max_answers=5, max_candidates=200))
    document = schemathesis.openapi.from_asgi("/openapi.json", service.app)
    method, path = operation.split()
    if mode == "negative" and method == "GET":
        return  # nothing to get wrong
    promised = [
        checks.not_a_server_error,
        *schemathesis.checks.CHECKS.get_by_names(
            ["status_code_conformance", "content_type_conformance", "response_schema_conformance"]
        ),
    ]

    @given(case=document[path][method].as_strategy(generation_mode=GenerationMode(mode)))
    @settings(
        max_examples=25,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def check(case: Any) -> None:
        response = case.call()
        case.validate_response(response, checks=promised)

    check()
