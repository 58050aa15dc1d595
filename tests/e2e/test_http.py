"""The mesh over HTTP: what a browser, curl or a script sees of real tasks."""

import json
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from tests.support.mesh import Mesh


@pytest.fixture
async def http(mesh: Mesh) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the gateway."""
    async with httpx.AsyncClient(base_url=f"http://{mesh.address('gateway')}", timeout=20) as client:
        yield client


def frames(text: str) -> Iterator[dict[str, str]]:
    """Read server-sent events."""
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and not line.startswith(":"))
        fields.pop("retry", None)
        if fields:
            yield fields


async def test_a_task_is_streamed_as_one_event_a_frame(http: httpx.AsyncClient) -> None:
    body = {"requestId": "http-1", "spec": {"agent": "echo", "prompt": "hi", "parameters": {"count": 2}}}
    answer = await http.post("/v1/tasks:stream", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    seen = list(frames(answer.text))
    assert [frame["event"] for frame in seen] == [
        "state_changed",
        "attempt_started",
        "state_changed",
        "message",
        "message",
        "state_changed",
    ]
    assert [int(frame["id"]) for frame in seen] == [1, 2, 3, 4, 5, 6]
    last = json.loads(seen[-1]["data"])
    assert last["stateChanged"]["state"] == "TASK_STATE_COMPLETED"
    assert {"taskId", "sequence", "attempt"} <= last.keys()


async def test_last_event_id_resumes_after_what_was_seen(http: httpx.AsyncClient) -> None:
    submitted = await http.post(
        "/v1/tasks", json={"spec": {"agent": "echo", "prompt": "hi", "parameters": {"count": 3}}}
    )
    task_id = submitted.json()["task"]["id"]
    whole = list(frames((await http.get(f"/v1/tasks/{task_id}:watch")).text))
    rest = list(frames((await http.get(f"/v1/tasks/{task_id}:watch", headers={"last-event-id": "4"})).text))
    assert rest == whole[4:]
    by_query = list(frames((await http.get(f"/v1/tasks/{task_id}:watch?after_sequence=4")).text))
    assert by_query == rest


async def test_errors_carry_the_status_with_its_details(http: httpx.AsyncClient) -> None:
    refused = await http.post("/v1/tasks", json={"spec": {"agent": "nobody", "prompt": "x"}})
    assert refused.status_code == 400
    details = refused.json()["error"]["details"]
    assert details[0]["reason"] == "AGENT_NOT_FOUND"
    assert (await http.get("/v1/tasks/nonsense")).status_code == 404


async def test_artifacts_go_up_and_come_down_in_ranges(http: httpx.AsyncClient) -> None:
    content = bytes(range(256)) * 64
    stored = await http.post("/v1/artifacts?name=bytes.bin", content=content, headers={"content-type": "a/b"})
    artifact = stored.json()["artifact"]
    path = f"/v1/artifacts/{artifact['artifactId']}/content"
    assert (await http.get(path)).content == content
    part = await http.get(path, headers={"range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, content[10:20])


async def test_agents_and_lists_are_protobuf_json(http: httpx.AsyncClient) -> None:
    agents = {agent["name"]: agent for agent in (await http.get("/v1/agents")).json()["agents"]}
    assert agents["echo"]["serving"] is True
    assert "count" in agents["echo"]["parametersSchema"]["properties"]
    assert (await http.get("/v1/agents/echo")).json()["agent"]["name"] == "echo"
    assert "tasks" in (await http.get("/v1/tasks?page_size=2")).json()


async def test_health_is_true_to_the_services_behind(http: httpx.AsyncClient) -> None:
    assert (await http.get("/health")).json()["status"] == "healthy"
    assert (await http.get("/health/ready")).status_code == 200
    detailed = (await http.get("/health/detailed")).json()
    assert detailed["status"] == "healthy"
    checks = detailed["checks"]
    assert {name: check["status"] for name, check in checks.items()} == dict.fromkeys(checks, "healthy")
    assert {"router", "runner", "llm", "storage"} <= checks.keys()


async def test_metrics_have_the_names_that_dashboards_know(mesh: Mesh, http: httpx.AsyncClient) -> None:
    await http.post("/v1/tasks:stream", json={"spec": {"agent": "echo", "prompt": "x", "parameters": {"llm_calls": 1}}})
    ready = mesh.events[0]["services"]
    router = (await http.get(f"http://{ready['router']['metrics']}/metrics")).text
    assert 'agent_requests_total{agent_type="echo",status="completed"}' in router
    assert 'agent_request_duration_seconds_bucket{agent_type="echo"' in router
    assert 'agent_active_tasks{agent_type="echo"}' in router
    models = (await http.get(f"http://{ready['llm']['metrics']}/metrics")).text
    assert "llm_api_calls_total{" in models
    assert (await http.get("/metrics")).status_code == 200


async def test_the_interface_is_described(http: httpx.AsyncClient) -> None:
    paths = (await http.get("/openapi.json")).json()["paths"]
    assert "/v1/tasks" in paths
    assert (await http.get("/docs")).status_code == 200
    assert (await http.get("/")).status_code == 200
