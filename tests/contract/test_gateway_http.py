"""What plain requests to the gateway get: messages in and out, errors, bounds."""

import asyncio
import hashlib
import json

import httpx
import pytest

from agentmesh.api.task.v1 import events_pb2, task_service_pb2
from agentmesh.kit.errors import (
    AlreadyExists,
    DeadlineExceeded,
    Internal,
    InvalidRequest,
    MeshError,
    NotFound,
    OutOfRange,
    PermissionDenied,
    ResourceExhausted,
    StaleAttempt,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    WrongState,
)
from agentmesh_gateway.settings import Bounds
from tests.unit.gateway.running import Running, running


@pytest.fixture
async def mesh():
    async with running() as made:
        yield made


def reason_of(answer: httpx.Response) -> str:
    [info] = [d for d in answer.json()["error"]["details"] if d["@type"].endswith("ErrorInfo")]
    assert info["domain"] == "agentmesh"
    return info["reason"]


def violations_of(answer: httpx.Response) -> dict[str, str]:
    [bad] = [d for d in answer.json()["error"]["details"] if d["@type"].endswith("BadRequest")]
    return {v["field"]: v["description"] for v in bad["fieldViolations"]}


async def test_a_task_is_submitted_with_protobuf_json_in_both_spellings(mesh: Running):
    body = {
        "requestId": "r-1",
        "spec": {"agent": "echo", "parameters": {"count": 3}, "start_time": "2030-01-31T12:00:00Z", "timeout": "1.5s"},
    }
    answer = await mesh.client.post("/v1/tasks", json=body)
    assert answer.status_code == 200, answer.text
    task = answer.json()["task"]
    assert task["lastSequence"] == "1"  # int64 is text
    assert task["spec"]["startTime"] == "2030-01-31T12:00:00Z"
    [request] = mesh.tasks.requests
    assert request.spec.timeout.ToMilliseconds() == 1500
    assert request.spec.parameters["count"] == 3


async def test_query_parameters_become_fields_of_every_kind(mesh: Running):
    query = [
        ("page_size", "7"),
        ("states", "TASK_STATE_WORKING"),
        ("states", "4"),
        ("createdAfter", "2030-01-31T12:00:00+01:00"),
        ("label", "team=blue & green"),
    ]
    answer = await mesh.client.get("/v1/tasks", params=query)
    assert answer.json() == {"nextPageToken": "more"}
    [request] = mesh.tasks.requests
    assert request == task_service_pb2.ListTasksRequest(
        page_size=7,
        states=[events_pb2.TASK_STATE_WORKING, events_pb2.TASK_STATE_FAILED],
        created_after={"seconds": 1896087600},
        label="team=blue & green",
    )


async def test_a_path_variable_is_decoded_and_may_hold_a_colon(mesh: Running):
    answer = await mesh.client.get("/v1/agents/workflow:nightly@2")
    assert answer.json()["agent"]["name"] == "workflow:nightly@2"
    assert (await mesh.client.get("/v1/agents/a%2Fb%3Awatch")).json()["agent"]["name"] == "a/b:watch"


async def test_a_verb_without_a_body_works(mesh: Running):
    answer = await mesh.client.post("/v1/tasks/t-9:cancel")
    assert answer.json()["task"]["id"] == "t-9"


@pytest.mark.parametrize(
    ("body", "field", "description"),
    [
        ({"spek": {}}, "spek", "is not known here"),
        ({"spec": {"prio": 1}}, "spec.prio", "is not known here"),
        ({"spec": {"input": [{"text": "a"}, {"nope": 1}]}}, "spec.input[1].nope", "is not known here"),
        ({"spec": {"priority": "high"}}, "spec.priority", "must be a 32-bit integer"),
        ({"spec": {"retry": {"maxAttempts": 2**40}}}, "spec.retry.maxAttempts", "must be a 32-bit integer"),
        ({"spec": {"startTime": "soon"}}, "spec.startTime", "must be an RFC 3339 time such as 2030-01-31T12:00:00Z"),
        ({"spec": {"input": {}}}, "spec.input", "must be a JSON array"),
        ({"spec": {"labels": {"a": 1}}}, "spec.labels.a", "must be text"),
        ({"spec": {"input": [{"raw": "§§"}]}}, "spec.input[0].raw", "must be base64"),
        ({"spec": {"input": [{"text": "a", "url": "b"}]}}, "spec.input[0].url", "can't be set together with text"),
        ({"requestId": "a", "request_id": "b"}, "request_id", "is given twice"),
        ({"spec": []}, "spec", "must be a JSON object"),
    ],
)
async def test_a_wrong_field_is_refused_by_its_path(mesh: Running, body: object, field: str, description: str):
    answer = await mesh.client.post("/v1/tasks", json=body)
    assert answer.status_code == 400
    assert violations_of(answer) == {field: description}
    assert field in answer.json()["error"]["message"]
    assert mesh.tasks.requests == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("nope=1", "nope"),
        ("page_size=x", "pageSize"),
        ("page_size=1&page_size=2", "page_size"),
        ("page_size=1&pageSize=2", "pageSize"),
        ("states=BUSY", "states[0]"),
        ("created_after.seconds=1", "created_after.seconds"),
    ],
)
async def test_a_wrong_query_parameter_is_refused_by_its_name(mesh: Running, query: str, field: str):
    answer = await mesh.client.get(f"/v1/tasks?{query}")
    assert answer.status_code == 400
    assert field in violations_of(answer)
    assert mesh.tasks.requests == []


async def test_a_body_that_contradicts_the_path_is_refused(mesh: Running):
    answer = await mesh.client.post("/v1/tasks/t-1:cancel", json={"taskId": "t-2"})
    assert "taskId" in violations_of(answer)
    assert (await mesh.client.post("/v1/tasks/t-1:cancel", json={"taskId": "t-1"})).status_code == 200


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "MALFORMED_JSON"),
        (b"[1]", "MALFORMED_JSON"),
        (b'{"a":NaN}', "MALFORMED_JSON"),
        (b"\xff", "MALFORMED_JSON"),
    ],
)
async def test_a_body_that_is_no_json_object_is_refused(mesh: Running, content: bytes, reason: str):
    answer = await mesh.client.post("/v1/tasks", content=content, headers={"content-type": "application/json"})
    assert (answer.status_code, reason_of(answer)) == (400, reason)


async def test_a_body_nested_too_deep_is_refused(mesh: Running):
    nested: object = 1
    for _ in range(70):
        nested = [nested]
    answer = await mesh.client.post("/v1/tasks", json={"spec": {"parameters": {"a": nested}}})
    assert (answer.status_code, reason_of(answer)) == (400, "TOO_DEEP")


async def test_a_body_of_another_media_type_is_refused(mesh: Running):
    answer = await mesh.client.post("/v1/tasks", content=b"{}", headers={"content-type": "text/plain"})
    assert (answer.status_code, reason_of(answer)) == (415, "NOT_JSON")


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_over_the_limit_is_refused_before_the_router_sees_it(announced: bool):
    async with running(Bounds(max_body_bytes=100_000)) as mesh:
        content = json.dumps({"spec": {"prompt": "x" * 100_000}}).encode()

        async def chunked():
            yield content

        headers = {"content-type": "application/json"}
        answer = await mesh.client.post("/v1/tasks", content=content if announced else chunked(), headers=headers)
        assert (answer.status_code, reason_of(answer)) == (413, "BODY_TOO_LARGE")
        assert mesh.tasks.requests == []


async def test_an_unknown_path_and_a_wrong_method_have_the_shape_of_every_error(mesh: Running):
    absent = await mesh.client.get("/v2/nothing")
    assert (absent.status_code, reason_of(absent)) == (404, "NO_SUCH_PATH")
    wrong = await mesh.client.put("/v1/tasks", json={})
    assert (wrong.status_code, reason_of(wrong), wrong.headers["allow"]) == (
        405,
        "METHOD_NOT_ALLOWED",
        "GET, HEAD, POST",
    )
    verb = await mesh.client.get("/v1/tasks/t-1:cancel")
    assert (verb.status_code, verb.headers["allow"]) == (405, "POST")
    page = await mesh.client.post("/health")
    assert (page.status_code, page.headers["allow"]) == (405, "GET, HEAD")


async def test_heads_of_requests_are_bounded(mesh: Running):
    long = await mesh.client.get("/v1/agents/" + "a" * 9000)
    assert (long.status_code, reason_of(long)) == (414, "ADDRESS_TOO_LONG")
    for headers in ({"x-big": "a" * 20_000}, {f"x-{n}": "a" for n in range(120)}):
        big = await mesh.client.get("/health", headers=headers)
        assert (big.status_code, reason_of(big)) == (431, "HEADERS_TOO_LARGE")


async def test_a_header_that_never_ends_is_cut_off(mesh: Running):
    reader, writer = await asyncio.open_connection("127.0.0.1", mesh.port)
    writer.write(b"GET /health HTTP/1.1\r\nx-endless: " + b"a" * 25_000)
    answer = await asyncio.wait_for(reader.read(), 5)
    assert answer.startswith(b"HTTP/1.1 431 ")
    writer.close()


async def test_a_connection_that_sends_no_request_is_closed():
    async with running(Bounds(header_timeout_s=0.2)) as mesh:
        reader, writer = await asyncio.open_connection("127.0.0.1", mesh.port)
        writer.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\n")
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()


async def test_what_is_not_http_is_refused_in_json(mesh: Running):
    reader, writer = await asyncio.open_connection("127.0.0.1", mesh.port)
    writer.write(b"HELLO\r\n\r\n")
    head, body = (await asyncio.wait_for(reader.read(), 5)).split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["error"]["code"] == 3
    writer.close()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidRequest("a field is wrong", violations=[("spec.agent", "is needed")]), 400),
        (Unauthenticated("no"), 401),
        (PermissionDenied("no"), 403),
        (NotFound("no"), 404),
        (AlreadyExists("no"), 409),
        (StaleAttempt("no"), 409),
        (ResourceExhausted("no", retry_after_s=2.5, quota="tasks"), 429),
        (WrongState("no", reason="INPUT_ALREADY_GIVEN"), 400),
        (OutOfRange("no", metadata={"oldest_sequence": "7"}), 400),
        (Unimplemented("no"), 501),
        (Internal("no"), 500),
        (Unavailable("no", retry_after_s=0.2), 503),
        (DeadlineExceeded("no"), 504),
    ],
)
async def test_an_error_of_the_router_keeps_its_code_reason_and_details(mesh: Running, error: MeshError, status: int):
    mesh.tasks.refuse = error
    answer = await mesh.client.get("/v1/tasks")
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == error.code.value[0]
    assert answer.json()["error"]["message"] == error.message
    assert reason_of(answer) == error.reason
    if error.violations:
        assert violations_of(answer) == {"spec.agent": "is needed"}
    if error.retry_after_s is not None:
        assert answer.headers["retry-after"] == {2.5: "3", 0.2: "1"}[error.retry_after_s]
    if error.metadata:
        assert '"oldest_sequence":"7"' in answer.text
    assert answer.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)


async def test_a_router_that_is_gone_is_503_with_a_retry_hint(mesh: Running):
    await mesh.kill_router()
    answer = await mesh.client.get("/v1/tasks")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "127.0.0.1" not in answer.text


async def test_only_credential_and_trace_are_passed_on(mesh: Running):
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {"authorization": "Bearer k", "traceparent": trace, "x-other": "1", "cookie": "a=b"}
    await mesh.client.get("/v1/agents", headers=headers)
    [metadata] = mesh.tasks.metadata
    assert metadata["authorization"] == "Bearer k"
    assert metadata["traceparent"] == trace
    assert set(metadata) <= {"authorization", "traceparent", "user-agent"}


async def test_a_credential_that_no_metadata_can_hold_is_refused(mesh: Running):
    strange = await mesh.client.get("/v1/agents", headers={"authorization": b"Bearer \xe4"})
    assert strange.status_code == 401
    assert (await mesh.client.get("/v1/agents", headers={"authorization": "a" * 5000})).status_code == 431


async def test_the_clients_patience_bounds_the_call(mesh: Running):
    await mesh.client.get("/v1/agents")
    assert mesh.tasks.remaining_s[0] == pytest.approx(30, abs=2)
    mesh.tasks.delay_s = 30
    answer = await mesh.client.get("/v1/agents", headers={"x-request-timeout": "0.2"})
    assert answer.status_code == 504


@pytest.mark.parametrize("timeout", ["0", "-1", "nan", "inf", "301", "soon"])
async def test_a_patience_without_sense_is_refused(mesh: Running, timeout: str):
    answer = await mesh.client.get("/v1/agents", headers={"x-request-timeout": timeout})
    assert answer.status_code == 400
    assert "x-request-timeout" in violations_of(answer)


async def test_more_calls_than_one_connection_takes_are_all_answered(mesh: Running):
    mesh.tasks.delay_s = 0.3
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(base_url=mesh.client.base_url, limits=limits, timeout=10) as client:
        answers = await asyncio.gather(*(client.get("/v1/agents") for _ in range(150)))
    assert {answer.status_code for answer in answers} == {200}
    assert max(mesh.tasks.remaining_s) > 29  # none waited for a place


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"origin": "https://evil.example"}, "FOREIGN_ORIGIN"),
        ({"origin": "null"}, "FOREIGN_ORIGIN"),
        ({"sec-fetch-site": "cross-site"}, "FOREIGN_ORIGIN"),
        ({"host": "rebound.example:8000"}, "FOREIGN_HOST"),
    ],
)
async def test_a_web_page_of_another_site_is_refused(mesh: Running, headers: dict[str, str], reason: str):
    answer = await mesh.client.post("/v1/tasks", json={}, headers=headers)
    assert (answer.status_code, reason_of(answer)) == (403, reason)
    own = {"origin": f"http://127.0.0.1:{mesh.port}", "sec-fetch-site": "same-origin"}
    assert (await mesh.client.post("/v1/tasks", json={}, headers=own)).status_code == 200


async def test_metrics_ask_for_the_key_where_the_api_does():
    key = "a-clients-key"
    keys = [{"sha256": hashlib.sha256(key.encode()).hexdigest(), "tenant": "t"}]
    async with running(authentication=True, api_keys=keys) as mesh:
        assert (await mesh.client.get("/metrics")).status_code == 401
        answer = await mesh.client.get("/metrics", headers={"authorization": f"Bearer {key}"})
        assert answer.status_code == 200
        assert (await mesh.client.get("/health")).status_code == 200


async def test_requests_are_counted_by_route_and_not_by_path(mesh: Running):
    await mesh.client.get("/v1/tasks/some-task-id")
    await mesh.client.get("/surely/not/here")
    text = (await mesh.client.get("/metrics")).text
    assert 'agentmesh_gateway_requests_total{method="GET",route="/v1/tasks/{task_id}",status="404"}' in text
    assert 'route="unmatched",status="404"' in text
    assert "some-task-id" not in text
    assert "surely" not in text
