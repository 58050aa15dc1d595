"""What Envoy keeps out, hides, bounds and writes down."""

import asyncio
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from cryptography import x509

from agentmesh.api.llm.v1 import llm_service_pb2 as llm_pb
from agentmesh.api.llm.v1 import llm_service_pb2_grpc as llm_grpc
from agentmesh.api.task.v1 import task_service_pb2 as pb
from agentmesh.api.task.v1 import task_service_pb2_grpc as pb_grpc
from agentmesh.kit import names
from agentmesh.kit.rpc_client import Trust, bearer, open_channel
from tests.deploy import conftest
from tests.deploy.conftest import KEYS, handshake, issue, members, trusting
from tests.deploy.envoy import Envoy
from tests.support.certificates import Authority
from tests.support.fleet import Fleet
from tests.support.reading import echo


@pytest.fixture(scope="module")
def own_tls(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates that a test may replace."""
    folder = tmp_path_factory.mktemp("own-tls")
    issue(authority, folder, "localhost")
    return folder


@pytest.fixture(scope="module")
def envoy(fleet: Fleet, own_tls: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Envoy]:
    """The shipped Envoy before the mesh."""
    folder = tmp_path_factory.mktemp("envoy")
    with Envoy(folder, own_tls, routers=fleet.routers, gateways=members(fleet, "gateway")) as started:
        yield started


@pytest.fixture
async def http(envoy: Envoy, own_tls: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of HTTP/1.1 that shows a key."""
    trust = trusting(own_tls)
    async with httpx.AsyncClient(base_url=envoy.url, verify=trust, headers=conftest.bearer(), timeout=30) as client:
        yield client


@pytest.fixture
async def channel(envoy: Envoy, own_tls: Path) -> AsyncIterator[grpc.aio.Channel]:
    """A channel of gRPC."""
    async with open_channel(envoy.address, trust=Trust(own_tls / "ca.crt")) as opened:
        yield opened


# -- TLS ------------------------------------------------------------------------------------------------------


def test_alpn_chooses_between_http_2_and_http_1_1(envoy: Envoy, own_tls: Path) -> None:
    for protocol in ("h2", "http/1.1"):
        with handshake(envoy.https, own_tls, alpn=protocol) as connection:
            assert connection.selected_alpn_protocol() == protocol
            assert connection.version() == "TLSv1.3"


def test_tls_1_1_is_refused_and_1_2_is_taken(envoy: Envoy, own_tls: Path) -> None:
    with handshake(envoy.https, own_tls, version=ssl.TLSVersion.TLSv1_2) as connection:
        assert connection.version() == "TLSv1.2"
    with pytest.warns(DeprecationWarning, match="TLS"), pytest.raises(ssl.SSLError, match="alert protocol version"):
        handshake(envoy.https, own_tls, version=ssl.TLSVersion.TLSv1_1)


async def test_a_renewed_certificate_is_shown_without_a_restart(
    envoy: Envoy, own_tls: Path, authority: Authority, http: httpx.AsyncClient
) -> None:
    def shown() -> int:
        with handshake(envoy.https, own_tls) as connection:
            certificate = connection.getpeercert(binary_form=True)
        assert certificate is not None
        return x509.load_der_x509_certificate(certificate).serial_number

    before = shown()
    renewed = issue(authority, own_tls, "localhost")
    assert renewed != before
    async with asyncio.timeout(20):
        while await asyncio.to_thread(shown) != renewed:
            await asyncio.sleep(0.05)
    assert (await http.get("/health")).status_code == 200


async def test_plain_http_leads_to_https_and_tells_only_health(envoy: Envoy, http: httpx.AsyncClient) -> None:
    plain = f"http://localhost:{envoy.http}"
    for path in ("/health", "/health/ready"):
        assert (await http.get(plain + path)).status_code == 200
    moved = await http.post(f"{plain}/v1/tasks?a=b", json={}, headers={"host": "mesh.example"})
    assert (moved.status_code, moved.headers["location"]) == (301, "https://mesh.example/v1/tasks?a=b")


# -- what clients may not say ---------------------------------------------------------------------------------


@pytest.mark.parametrize("header", [names.TENANT, names.VIRTUAL_KEY, names.TASK_TOKEN])
async def test_who_calls_is_said_by_the_key_and_not_by_headers(
    header: str, channel: grpc.aio.Channel, http: httpx.AsyncClient
) -> None:
    spoofed = ((header, "globex"),)
    tasks: Any = pb_grpc.TaskServiceStub(channel)
    request = pb.SubmitTaskRequest(spec=echo())
    task = (await tasks.SubmitTask(request, metadata=(*bearer(KEYS["acme"]), *spoofed))).task
    over_http = await http.get(f"/v1/tasks/{task.id}", headers=dict(spoofed))
    assert over_http.json()["task"]["id"] == task.id  # acme's, although globex was said
    direct = await http.get(f"/direct/v1/tasks/{task.id}", headers={**conftest.bearer("globex"), header: "acme"})
    assert direct.status_code == 404
    listed = await http.get("/v1/models", headers={**dict(spoofed), "authorization": "Bearer nobody's"})
    assert listed.status_code == 401


def test_headers_between_services_are_taken_away_before_the_mesh_sees_them(envoy: Envoy) -> None:
    dump = json.loads(envoy.asked("/config_dump?resource=static_route_configs"))
    by_name = {config["route_config"]["name"]: config["route_config"] for config in dump["configs"]}
    internal = {names.TENANT, names.VIRTUAL_KEY, names.TASK_TOKEN}
    assert set(by_name["mesh"]["request_headers_to_remove"]) == internal
    assert set(by_name["redirect"]["virtual_hosts"][0]["request_headers_to_remove"]) > internal


async def test_services_within_the_mesh_have_no_way_in(channel: grpc.aio.Channel, fleet: Fleet) -> None:
    stub: Any = llm_grpc.LlmServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.ListModels(llm_pb.ListModelsRequest(), metadata=bearer(KEYS["acme"]))
    assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_orders_to_envoy_and_forged_addresses_from_outside_have_no_effect(
    envoy: Envoy, http: httpx.AsyncClient
) -> None:
    orders = {"x-envoy-upstream-rq-timeout-ms": "1", "x-envoy-original-path": "/forged", "x-forwarded-for": "6.6.6.6"}
    model = {"model": "offline", "messages": [{"role": "user", "content": "a question"}]}
    answer = await http.post("/v1/chat/completions", json=model, headers={**orders, "x-request-id": "forged"})
    assert answer.status_code == 200, answer.text
    line = await logged(envoy, path="/v1/chat/completions")
    assert line["client"] == "127.0.0.1"
    assert line["request_id"] != "forged"


# -- what is said back ----------------------------------------------------------------------------------------


async def test_pages_come_with_security_headers_and_nothing_says_what_serves_them(http: httpx.AsyncClient) -> None:
    page = await http.get("/")
    assert page.headers["strict-transport-security"].startswith("max-age=63072000")
    assert page.headers["x-frame-options"] == "DENY"
    assert page.headers.get_list("x-content-type-options") == ["nosniff"]
    assert page.headers["x-xss-protection"] == "1; mode=block"
    assert "content-security-policy" in page.headers
    for answer in (page, await http.get("/metrics"), await http.get("/direct/v1/agents")):
        assert not {name for name in answer.headers if name == "server" or name.startswith("x-envoy")}


async def test_metrics_of_all_tenants_are_not_for_one_of_them(http: httpx.AsyncClient) -> None:
    refused = await http.get("/metrics")
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, 404)


# -- bounds ---------------------------------------------------------------------------------------------------


async def test_headers_that_are_too_large_or_too_many_are_refused(http: httpx.AsyncClient) -> None:
    assert (await http.get("/health", headers={"x-large": "a" * 17_000})).status_code == 431
    assert (await http.get("/health", headers={f"x-{n}": "a" for n in range(120)})).status_code == 431


async def test_messages_of_4_mib_go_through_and_larger_ones_are_refused(
    channel: grpc.aio.Channel, http: httpx.AsyncClient
) -> None:
    tasks: Any = pb_grpc.TaskServiceStub(channel)
    large = "a" * (names.MAX_MESSAGE_BYTES - 2000)
    for size, expected in ((large, grpc.StatusCode.INVALID_ARGUMENT), (large * 2, grpc.StatusCode.RESOURCE_EXHAUSTED)):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await tasks.SubmitTask(
                pb.SubmitTaskRequest(request_id="a" * 200, spec=echo(size)), metadata=bearer(KEYS["acme"])
            )
        assert raised.value.code() == expected
    refused = await http.post("/direct/v1/tasks", content=b'{"requestId": "%b"}' % (b"a" * 7_000_000))
    assert refused.status_code in (413, 429)


async def test_a_client_beyond_its_rate_is_told_to_come_back(fleet: Fleet, own_tls: Path, tmp_path: Path) -> None:
    filters = "static_resources.listeners.0.filter_chains.0.filters.1.typed_config.http_filters"
    tight = (f"{filters}.0.typed_config.descriptors.0.token_bucket", {"max_tokens": 3, "fill_interval": "3600s"})
    where = {"routers": fleet.routers, "gateways": members(fleet, "gateway")}
    with Envoy(tmp_path, own_tls, **where, changed=[tight]) as envoy:
        async with httpx.AsyncClient(base_url=envoy.url, verify=trusting(own_tls)) as http:
            answers = [await http.get("/health") for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
        assert answers[-1].headers["retry-after"] == "1"
        async with open_channel(envoy.address, trust=Trust(own_tls / "ca.crt")) as channel:
            tasks: Any = pb_grpc.TaskServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await tasks.GetTask(pb.GetTaskRequest(), metadata=bearer(KEYS["acme"]))
        assert raised.value.code() == grpc.StatusCode.UNAVAILABLE  # which the shipped clients repeat


# -- what is written down -------------------------------------------------------------------------------------


async def logged(envoy: Envoy, **fields: object) -> dict[str, Any]:
    """Wait for a line of the access log with these fields."""
    async with asyncio.timeout(10):
        while True:
            for line in reversed(envoy.log()):
                if fields.items() <= line.items():
                    return line
            await asyncio.sleep(0.05)


async def test_the_access_log_is_json_without_credentials(
    envoy: Envoy, http: httpx.AsyncClient, channel: grpc.aio.Channel
) -> None:
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {"traceparent": traceparent, "x-api-key": "secret-in-a-header", "cookie": "secret-in-a-cookie"}
    await http.get("/v1/agents", params={"key": "secret-in-a-query"}, headers=headers)
    line = await logged(envoy, path="/v1/agents")
    assert (line["status"], line["protocol"], line["traceparent"], line["tls"]) == (
        400,
        "HTTP/1.1",
        traceparent,
        "TLSv1.3",
    )
    tasks: Any = pb_grpc.TaskServiceStub(channel)
    await tasks.ListTasks(pb.ListTasksRequest(), metadata=bearer(KEYS["acme"]))
    line = await logged(envoy, path="/agentmesh.api.task.v1.TaskService/ListTasks")
    assert (line["status"], line["grpc_status"], line["protocol"]) == (200, "OK", "HTTP/2")
    text = envoy.daemon.log.read_text()
    assert not [secret for secret in (*KEYS.values(), "secret-in", "Bearer") if secret in text]


def test_envoys_own_metrics_can_be_scraped_and_nothing_else_of_its_admin_interface(envoy: Envoy) -> None:
    base = f"http://127.0.0.1:{envoy.metrics}"
    with urllib.request.urlopen(f"{base}/stats/prometheus", timeout=5) as answer:
        text = answer.read().decode()
    assert 'envoy_cluster_membership_healthy{envoy_cluster_name="router"} 2' in text
    with urllib.request.urlopen(f"{base}/ready", timeout=5) as answer:
        assert answer.status == 200
    for path, method in (("/clusters", "GET"), ("/config_dump", "GET"), ("/stats/prometheus", "POST")):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(urllib.request.Request(base + path, method=method), timeout=5)
