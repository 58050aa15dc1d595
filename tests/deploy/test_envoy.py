"""Envoy in front of a live mesh: every way in, over TLS, as it is shipped."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentmesh.api.task.v1 import task_service_pb2 as pb
from agentmesh.client import AsyncClient
from tests.deploy import grpc_web
from tests.deploy.conftest import KEYS, bearer, members, trusting
from tests.deploy.envoy import Envoy
from tests.support.fake_provider import FakeProvider
from tests.support.fleet import Fleet
from tests.support.reading import echo

TASKS = "/agentmesh.api.task.v1.TaskService/"


@pytest.fixture(scope="module")
def envoy(fleet: Fleet, tls: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Envoy]:
    """The shipped Envoy before the mesh."""
    folder = tmp_path_factory.mktemp("envoy")
    with Envoy(folder, tls, routers=fleet.routers, gateways=members(fleet, "gateway")) as started:
        yield started


@pytest.fixture
async def http(envoy: Envoy, tls: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of HTTP/1.1 that shows a key."""
    async with httpx.AsyncClient(base_url=envoy.url, verify=trusting(tls), headers=bearer(), timeout=30) as client:
        yield client


def client_of(envoy: Envoy, tls: Path) -> AsyncClient:
    """Return the shipped client, over TLS."""
    return AsyncClient(envoy.address, token=KEYS["acme"], ca=tls / "ca.crt", retry_for_s=20)


async def answered(http: httpx.AsyncClient, task_id: str, question: dict[str, Any]) -> None:
    """Answer a question of the agent `asker`."""
    body = {"inputId": question["inputId"], "message": {"role": "ROLE_USER", "parts": [{"text": "Ada"}]}}
    answer = await http.post(f"/v1/tasks/{task_id}:input", json=body)
    assert answer.status_code == 200, answer.text


# -- gRPC -----------------------------------------------------------------------------------------------------


async def test_grpc_calls_and_streams_reach_the_routers(envoy: Envoy, tls: Path) -> None:
    async with client_of(envoy, tls) as client:
        task = await client.submit("echo", "hello", parameters={"count": 3})
        result = await client.result(task.id)
        streamed = [event async for event in client.stream("echo", "hello", parameters={"count": 5, "delay_ms": 10})]
        async with client.lane() as lane:
            lane_results = await asyncio.gather(*(lane.run("echo", f"{n}") for n in range(20)))
    assert result.state_name == "COMPLETED"
    assert sum(event.name == "message" for event in streamed) == 5
    assert [result.text for result in lane_results] == [str(n) for n in range(20)]


async def test_more_streams_than_a_connection_takes_find_room(envoy: Envoy, tls: Path) -> None:
    async with client_of(envoy, tls) as client:
        running = [client.run("echo", f"{n}", parameters={"count": 2, "delay_ms": 100}) for n in range(150)]
        results = await asyncio.gather(*running)
    assert {result.state_name for result in results} == {"COMPLETED"}
    reached = {host: int(count) for host, count in envoy.figures("router", "rq_total").items()}
    assert len(reached) == 2
    assert min(reached.values()) > 20, envoy.asked("/clusters")  # least_request gives both something to do


# -- gRPC-Web -------------------------------------------------------------------------------------------------


async def test_grpc_web_calls_are_answered_with_messages_and_trailers(http: httpx.AsyncClient) -> None:
    request = pb.SubmitTaskRequest(spec=echo(count=2))
    (answer,), trailers = await grpc_web.call(http, TASKS + "SubmitTask", request, pb.SubmitTaskResponse, bearer())
    assert trailers["grpc-status"] == "0"
    watch = pb.WatchTaskRequest(task_id=answer.task.id)
    watched, trailers = await grpc_web.call(http, TASKS + "WatchTask", watch, pb.WatchTaskResponse, bearer())
    assert trailers["grpc-status"] == "0"
    events = [event for response in watched for chunk in response.chunks for event in chunk.events]
    assert sum(event.HasField("message") for event in events) == 2


async def test_grpc_web_is_told_why_it_is_refused(http: httpx.AsyncClient) -> None:
    request = pb.GetTaskRequest(task_id="01999999-9999-7999-8999-999999999999")
    none, trailers = await grpc_web.call(http, TASKS + "GetTask", request, pb.GetTaskResponse, bearer())
    assert (none, trailers["grpc-status"]) == ([], "5")


async def test_only_pages_of_known_sites_may_call_from_elsewhere(http: httpx.AsyncClient) -> None:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,x-grpc-web"}
    path = TASKS + "GetTask"
    known = await http.options(path, headers={"origin": "https://app.your-domain.com", **asked})
    assert known.headers["access-control-allow-origin"] == "https://app.your-domain.com"
    assert "x-grpc-web" in known.headers["access-control-allow-headers"]
    unknown = await http.options(path, headers={"origin": "https://elsewhere.example", **asked})
    assert "access-control-allow-origin" not in unknown.headers


# -- JSON that Envoy transcodes -------------------------------------------------------------------------------


async def test_json_below_direct_reaches_a_router_without_a_gateway(http: httpx.AsyncClient, envoy: Envoy) -> None:
    before = sum(map(int, envoy.figures("gateway", "rq_total").values()))
    body = {"spec": {"agent": "echo", "prompt": "hello", "parameters": {"count": 2}}}
    submitted = await http.post("/direct/v1/tasks", json=body)
    assert submitted.status_code == 200, submitted.text
    path = f"/direct/v1/tasks/{submitted.json()['task']['id']}"
    watched = await http.get(f"{path}:watch", params={"afterSequence": 1})
    chunks = [chunk for line in watched.text.splitlines() for chunk in json.loads(line)["chunks"]]
    events = [event for chunk in chunks for event in chunk["events"]]
    assert chunks[0]["firstSequence"] == "2"
    assert sum("message" in event for event in events) == 2
    assert (await http.get(path)).json()["task"]["state"] == "TASK_STATE_COMPLETED"
    assert (await http.get("/direct/v1/schedules")).json() == {}
    assert sum(map(int, envoy.figures("gateway", "rq_total").values())) == before


async def test_refusals_of_transcoded_json_carry_their_reason(http: httpx.AsyncClient) -> None:
    unknown = await http.get("/direct/v1/tasks/01999999-9999-7999-8999-999999999999")
    assert unknown.status_code == 404
    assert unknown.json()["details"][0]["@type"].endswith("google.rpc.ErrorInfo")
    stranger = await http.get("/direct/v1/tasks", headers={"authorization": "Bearer nobody's"})
    assert stranger.status_code == 401
    assert (await http.get("/direct/v1/tasks", params={"nonsense": "1"})).status_code == 400
    assert (await http.get("/direct/v1/nothing")).status_code == 404


# -- HTTP through the gateways --------------------------------------------------------------------------------


async def test_json_and_pages_come_from_the_gateways(http: httpx.AsyncClient) -> None:
    assert (await http.get("/health/ready")).json()["status"] == "ready"
    assert "agentmesh" in (await http.get("/")).text
    assert (await http.get("/v1/tasks", params={"nonsense": "1"})).json()["error"]["details"]


async def test_events_arrive_one_by_one(http: httpx.AsyncClient) -> None:
    """The end of the stream is made only after its beginning was read: nothing on the way waits for the whole."""
    submitted = await http.post("/v1/tasks", json={"spec": {"agent": "asker", "prompt": "greet"}})
    assert submitted.status_code == 200, submitted.text
    task_id = submitted.json()["task"]["id"]
    said = []
    async with http.stream("GET", f"/v1/tasks/{task_id}:watch") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        async for line in response.aiter_lines():
            if line.startswith("data:"):
                said.append(json.loads(line[5:]))
                question = said[-1].get("stateChanged", {}).get("inputRequest")
                if question:
                    await answered(http, task_id, question)
    assert said[-1]["stateChanged"]["result"]["text"] == "hello Ada"


async def test_a_models_answer_arrives_piece_by_piece(http: httpx.AsyncClient, provider_url: str) -> None:
    """The provider goes on only when the client has read the beginning."""
    pieces = []
    async with FakeProvider(port=httpx.URL(provider_url).port or 0) as provider:
        body = {"model": "part:4", "stream": True, "messages": [{"role": "user", "content": "one two three four five"}]}
        async with http.stream("POST", "/v1/chat/completions", json=body) as response:
            assert response.status_code == 200, await response.aread()
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    pieces.append(json.loads(line[6:]))
                    provider.let_go.set()
    assert len(pieces) > 4
    assert pieces[-1]["choices"] == [] or pieces[-1]["choices"][0]["finish_reason"] == "stop"


async def test_anthropic_messages_stream_through(http: httpx.AsyncClient) -> None:
    body: dict[str, Any] = {"model": "offline", "max_tokens": 50, "stream": True}
    body["messages"] = [{"role": "user", "content": "hello"}]
    answer = await http.post("/v1/messages", json=body)
    assert answer.status_code == 200, answer.text
    assert "event: message_stop" in answer.text
