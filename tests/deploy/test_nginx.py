"""nginx in front of a live mesh, as it is shipped."""

import asyncio
import json
import re
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from agentmesh.api.llm.v1 import llm_service_pb2 as llm_pb
from agentmesh.api.llm.v1 import llm_service_pb2_grpc as llm_grpc
from agentmesh.api.task.v1 import task_service_pb2 as pb
from agentmesh.api.task.v1 import task_service_pb2_grpc as pb_grpc
from agentmesh.client import AsyncClient
from agentmesh.kit import names
from agentmesh.kit.rpc_client import Trust, open_channel
from agentmesh.kit.rpc_client import bearer as shown
from agentmesh_gateway.routes import SERVICES
from tests.deploy import nginx as shipped
from tests.deploy.conftest import KEYS, bearer, handshake, members, trusting
from tests.deploy.nginx import SHIPPED, Nginx
from tests.support.fake_provider import FakeProvider
from tests.support.fleet import Fleet
from tests.support.reading import echo


@pytest.fixture(scope="module")
def nginx(fleet: Fleet, tls: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """The shipped nginx before the mesh."""
    folder = tmp_path_factory.mktemp("nginx")
    where = {"routers": fleet.routers, "gateways": members(fleet, "gateway")}
    with Nginx(shipped.current(folder), folder, tls, **where) as started:
        yield started


@pytest.fixture
async def http(nginx: Nginx, tls: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of HTTP/1.1 that shows a key."""
    async with httpx.AsyncClient(base_url=nginx.url, verify=trusting(tls), headers=bearer(), timeout=30) as client:
        yield client


@pytest.fixture
async def client(nginx: Nginx, tls: Path) -> AsyncIterator[AsyncClient]:
    """The shipped client."""
    async with AsyncClient(nginx.address, token=KEYS["acme"], ca=tls / "ca.crt") as opened:
        yield opened


@pytest.fixture
async def channel(nginx: Nginx, tls: Path) -> AsyncIterator[grpc.aio.Channel]:
    """A channel of gRPC."""
    async with open_channel(nginx.address, trust=Trust(tls / "ca.crt")) as opened:
        yield opened


# -- the files ------------------------------------------------------------------------------------------------


def checked(binary: Path, config: Path) -> str:
    """Let nginx check its configuration; return what it says."""
    command = [str(binary), "-t", "-p", str(config.parent), "-c", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_a_current_nginx_takes_what_is_shipped(tls: Path, tmp_path: Path) -> None:
    said = checked(shipped.current(tmp_path), shipped.installed(tmp_path / "nginx", tls))
    assert set(re.findall(r"\[(\w+)\]", said)) <= {"warn"}
    # The one warning is about the old spelling of http2, which an older nginx needs.
    assert len(re.findall(r"\[warn\]", said)) == said.count('"listen ... http2" directive is deprecated')


def test_an_older_nginx_takes_it_with_static_upstreams(tls: Path, tmp_path: Path) -> None:
    config = shipped.installed(tmp_path / "nginx", tls, upstreams="upstreams-static.conf")
    upstreams = config.parent / "upstreams.conf"
    # Names must resolve when it starts.
    text = upstreams.read_text().replace("router:", "127.0.0.1:").replace("gateway:", "127.0.0.1:")
    upstreams.write_text(text)
    checked(shipped.older(), config)


def test_both_ways_to_find_replicas_are_the_same_but_for_dns() -> None:
    def directives(name: str) -> list[str]:
        lines = (SHIPPED / name).read_text().replace(" resolve", "").splitlines()
        return [line for line in lines if line and not line.startswith(("#", "resolver"))]

    assert directives("upstreams.conf") == directives("upstreams-static.conf")


def test_every_public_service_is_let_in_and_no_other_one() -> None:
    config = (SHIPPED / "nginx.conf").read_text()
    (pattern,) = re.findall(r"location ~ (\S*TaskService\S*) ", config)
    for service in SERVICES:
        assert re.search(pattern, f"/{service.full_name}/Method")
    for other in ("llm.v1.LlmService", "storage.v1.TaskStoreService", "runner.v1.RunnerService", "llm.v1.KeyService"):
        assert not re.search(pattern, f"/agentmesh.api.{other}/Method")
    for header in (names.TENANT, names.TASK_TOKEN, names.VIRTUAL_KEY):
        for kind in ("proxy", "grpc"):
            assert f'{kind}_set_header {header.title()} "";' in config


# -- gRPC -----------------------------------------------------------------------------------------------------


async def test_grpc_calls_streams_and_lanes_go_through(client: AsyncClient) -> None:
    task = await client.submit("echo", "hello", parameters={"count": 3})
    assert (await client.result(task.id)).state_name == "COMPLETED"
    streamed = [event async for event in client.stream("echo", "hello", parameters={"count": 5, "delay_ms": 10})]
    assert sum(event.name == "message" for event in streamed) == 5
    async with client.lane() as lane:
        results = await asyncio.gather(*(lane.run("echo", f"{n}") for n in range(20)))
    assert [result.text for result in results] == [str(n) for n in range(20)]
    running = [client.run("echo", f"{n}", parameters={"count": 2, "delay_ms": 100}) for n in range(150)]
    assert {result.state_name for result in await asyncio.gather(*running)} == {"COMPLETED"}


async def test_services_within_the_mesh_have_no_way_in(channel: grpc.aio.Channel) -> None:
    stub: Any = llm_grpc.LlmServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.ListModels(llm_pb.ListModelsRequest(), metadata=shown(KEYS["acme"]))
    assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_a_headers_tenant_is_not_believed(channel: grpc.aio.Channel, http: httpx.AsyncClient) -> None:
    spoofed = ((names.TENANT, "globex"),)
    tasks: Any = pb_grpc.TaskServiceStub(channel)
    request = pb.SubmitTaskRequest(spec=echo())
    task = (await tasks.SubmitTask(request, metadata=(*shown(KEYS["acme"]), *spoofed))).task
    assert (await http.get(f"/v1/tasks/{task.id}", headers=dict(spoofed))).status_code == 200
    assert (await http.get(f"/v1/tasks/{task.id}", headers=bearer("globex"))).status_code == 404


# -- HTTP -----------------------------------------------------------------------------------------------------


async def test_events_and_answers_arrive_piece_by_piece(http: httpx.AsyncClient, provider_url: str) -> None:
    """The rest is made only after the beginning was read: nothing on the way waits for the whole."""
    submitted = await http.post("/v1/tasks", json={"spec": {"agent": "asker", "prompt": "greet"}})
    task_id = submitted.json()["task"]["id"]
    said: list[dict[str, Any]] = []
    async with http.stream("GET", f"/v1/tasks/{task_id}:watch") as response:
        async for line in response.aiter_lines():
            if line.startswith("data:"):
                said.append(json.loads(line[5:]))
                if question := said[-1].get("stateChanged", {}).get("inputRequest"):
                    message = {"role": "ROLE_USER", "parts": [{"text": "Ada"}]}
                    body = {"inputId": question["inputId"], "message": message}
                    assert (await http.post(f"/v1/tasks/{task_id}:input", json=body)).status_code == 200
    assert said[-1]["stateChanged"]["result"]["text"] == "hello Ada"

    pieces = 0
    async with FakeProvider(port=httpx.URL(provider_url).port or 0) as provider:
        body = {"model": "part:4", "stream": True, "messages": [{"role": "user", "content": "one two three four five"}]}
        async with http.stream("POST", "/v1/chat/completions", json=body) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    pieces += 1
                    provider.let_go.set()
    assert pieces > 4


async def test_the_guides_headers_redirect_health_and_static_paths(nginx: Nginx, http: httpx.AsyncClient) -> None:
    page = await http.get("/")
    expected = {
        "x-frame-options": "DENY",
        "x-content-type-options": "nosniff",
        "x-xss-protection": "1; mode=block",
        "strict-transport-security": "max-age=63072000; includeSubDomains; preload",
    }
    for name, value in expected.items():
        assert page.headers.get_list(name) == [value]
    assert "nginx/" not in page.headers.get("server", "")
    plain = f"http://localhost:{nginx.http}"
    moved = await http.get(f"{plain}/v1/tasks?a=b", headers={"host": "mesh.example"})
    assert (moved.status_code, moved.headers["location"]) == (301, "https://mesh.example/v1/tasks?a=b")
    for base in (plain, nginx.url):
        assert (await http.get(f"{base}/health/ready")).json()["status"] == "ready"
    nothing = await http.get("/static/nothing.js")
    assert (nothing.status_code, nothing.headers.get("cache-control")) == (404, "no-store")
    assert (await http.get("/metrics")).status_code == 404


async def test_bounds_of_headers_and_bodies(http: httpx.AsyncClient) -> None:
    assert (await http.get("/health", headers={"x-large": "a" * 17_000})).status_code in (400, 431)
    refused = await http.post("/v1/tasks", content=b" " * (9 * 1024 * 1024))
    assert refused.status_code == 413
    upload = await http.post("/v1/artifacts", params={"name": "a.bin"}, content=b"a" * (9 * 1024 * 1024))
    assert upload.status_code == 200, upload.text


def test_tls_1_1_is_refused_and_alpn_chooses(nginx: Nginx, tls: Path) -> None:
    for protocol in ("h2", "http/1.1"):
        with handshake(nginx.https, tls, alpn=protocol) as connection:
            assert (connection.selected_alpn_protocol(), connection.version()) == (protocol, "TLSv1.3")
    with handshake(nginx.https, tls, version=ssl.TLSVersion.TLSv1_2) as connection:
        assert connection.version() == "TLSv1.2"
    with pytest.warns(DeprecationWarning, match="TLS"), pytest.raises(ssl.SSLError, match="alert protocol version"):
        handshake(nginx.https, tls, version=ssl.TLSVersion.TLSv1_1)


async def test_the_access_log_is_json_without_credentials_or_health(
    nginx: Nginx, http: httpx.AsyncClient, channel: grpc.aio.Channel
) -> None:
    headers = {"x-api-key": "secret-in-a-header", "cookie": "secret-in-a-cookie"}
    await http.get("/v1/agents", params={"key": "secret-in-a-query"}, headers=headers)
    tasks: Any = pb_grpc.TaskServiceStub(channel)
    await tasks.ListTasks(pb.ListTasksRequest(), metadata=shown(KEYS["acme"]))
    await http.get("/health")
    async with asyncio.timeout(10):
        while not (found := {line["path"]: line for line in nginx.log()}).keys() >= {"/v1/agents", LISTING}:
            await asyncio.sleep(0.05)
    assert found["/v1/agents"]["status"] == "400"
    assert (found[LISTING]["grpc_status"], found[LISTING]["protocol"]) == ("0", "HTTP/2.0")
    assert not [line for line in nginx.log() if line["path"] == "/health" and line["status"] == "200"]
    text = nginx.daemon.log.read_text()
    assert not [secret for secret in (*KEYS.values(), "secret-in", "Bearer") if secret in text]


LISTING = "/agentmesh.api.task.v1.TaskService/ListTasks"


# -- failures -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("healed")
async def test_a_killed_router_and_a_killed_gateway_are_noticed_by_nobody(
    fleet: Fleet, client: AsyncClient, http: httpx.AsyncClient
) -> None:
    under_way = asyncio.Event()

    async def read(number: int) -> list[int]:
        sequences = []
        async for event in client.stream("echo", f"{number}", parameters={"count": 20, "delay_ms": 40}):
            sequences.append(event.sequence)
            if len(sequences) > 5:
                under_way.set()
        return sequences

    reading = asyncio.gather(*(read(number) for number in range(12)))
    await under_way.wait()
    await asyncio.to_thread(fleet.kill, "gateway-1", start=False)
    answers = [await http.get("/v1/agents") for _ in range(10)]
    assert {answer.status_code for answer in answers} == {200}
    await asyncio.to_thread(fleet.kill, "router-1", start=False)
    for sequences in await reading:
        assert sequences == list(range(1, len(sequences) + 1))


@pytest.mark.usefixtures("healed")
async def test_where_nobody_answers_clients_are_told_to_come_back(
    fleet: Fleet, http: httpx.AsyncClient, channel: grpc.aio.Channel
) -> None:
    for name in fleet.names_of("router", "gateway"):
        await asyncio.to_thread(fleet.kill, name, start=False)
    tasks: Any = pb_grpc.TaskServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await tasks.ListTasks(pb.ListTasksRequest(), metadata=shown(KEYS["acme"]))
    assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.UNAVAILABLE, "no router answers")
    refused = await http.get("/v1/agents")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert refused.json()["error"]["message"] == "no gateway answers"
