"""Health, OpenAPI and the pages for people."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from starlette.requests import Request

from agentmesh.kit.auth import Authenticator, Keyring
from agentmesh.kit.health import Health
from agentmesh.kit.rpc_server import build_server, listen
from agentmesh_gateway.health import HealthPages, ServiceHealth
from agentmesh_gateway.routes import RouteTable
from agentmesh_gateway.settings import Bounds
from tests.unit.gateway.running import Running, running


@pytest.fixture
async def mesh():
    async with running(Bounds(health_cache_s=0.0)) as made:
        yield made


async def test_liveness_asks_nobody(mesh: Running):
    await mesh.kill_router()
    answer = await mesh.client.get("/health")
    assert answer.status_code == 200
    assert answer.json()["status"] == "healthy"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", answer.json()["timestamp"])


async def test_readiness_follows_the_router(mesh: Running):
    assert (await mesh.client.get("/health/ready")).status_code == 200
    await mesh.kill_router()
    answer = await mesh.client.get("/health/ready")
    assert (answer.status_code, answer.json()["status"]) == (503, "not ready")


async def test_details_name_each_service_with_its_latency(mesh: Running):
    answer = await mesh.client.get("/health/detailed")
    assert answer.status_code == 503
    services = answer.json()["checks"]
    assert {service["status"] for service in services.values()} == {"healthy", "unhealthy"}
    assert {name: service["health"] for name, service in services.items()} == {
        "router": "SERVING",
        "runner": "UNREACHABLE",
        "llm": "UNREACHABLE",
        "storage": "UNREACHABLE",
    }
    assert all(service["latency_ms"] >= 0 for service in services.values())
    assert "127.0.0.1" not in answer.text


@asynccontextmanager
async def behind_it(health: Health, *, lists: bool = True) -> AsyncIterator[Callable[[], Awaitable[tuple[int, Any]]]]:
    """Serve a service's health, and yield what the gateway says in detail of it; `lists` if it knows every method."""
    server = build_server(Authenticator(Keyring("s"), anonymous=False), [])
    if lists:
        await health.add_to(server)
    else:
        plain = health_aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(plain, server)
    address = f"127.0.0.1:{listen(server, '127.0.0.1:0')}"
    await server.start()
    services = ServiceHealth({"llm": [address]}, trust=None, bounds=Bounds(health_cache_s=0.0))
    pages = HealthPages(services, "llm", asyncio.Event())

    async def detailed() -> tuple[int, Any]:
        answer = await pages.detailed(Request({"type": "http"}))
        return answer.status_code, json.loads(bytes(answer.body))

    yield detailed
    await services.aclose()
    await server.stop(0)


async def test_details_name_what_services_depend_on_and_what_they_do_without():
    there = {"database": True, "redis": True}

    async def database() -> bool:
        return there["database"]

    async def redis() -> bool:
        return there["redis"]

    health = Health()
    health.depend_on([], {"database": database}, {"redis": redis})
    async with behind_it(health) as detailed:
        for code, status, needed, used in (
            (200, "healthy", True, True),
            (200, "degraded", True, False),
            (503, "unhealthy", False, True),
            (503, "unhealthy", False, False),
        ):
            there.update(database=needed, redis=used)
            await health.refresh()
            answered, body = await detailed()
            assert (answered, body["status"]) == (code, status)
            words = {True: "healthy", False: "unhealthy"}
            assert body["checks"]["llm"]["dependencies"] == {"database": words[needed], "redis": words[used]}


async def test_a_service_that_lists_nothing_is_asked_for_itself_alone():
    async with behind_it(Health(), lists=False) as detailed:
        answered, body = await detailed()
    assert (answered, body["status"]) == (200, "healthy")
    assert body["checks"]["llm"]["dependencies"] == {}


async def test_readiness_is_remembered_for_a_moment():
    async with running(Bounds(health_cache_s=60)) as mesh:
        assert (await mesh.client.get("/health/ready")).status_code == 200
        await mesh.kill_router()
        assert (await mesh.client.get("/health/ready")).status_code == 200


async def test_openapi_describes_every_annotated_route_and_every_reference_resolves(mesh: Running):
    document = (await mesh.client.get("/openapi.json")).json()
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    table = RouteTable()
    assert {(route.http_method, route.template.openapi_path) for route in table.routes} <= described
    for reference in references(document):
        found: Any = document
        for key in reference.removeprefix("#/").split("/"):
            found = found[key]
    listing = {p["name"]: p["schema"] for p in document["paths"]["/v1/tasks"]["get"]["parameters"]}
    assert listing["createdAfter"] == {"type": "string", "format": "date-time"}
    assert listing["states"]["type"] == "array"
    stream = document["paths"]["/v1/tasks:stream"]["post"]["responses"]["200"]["content"]
    assert set(stream) == {"text/event-stream", "application/x-ndjson"}


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for child in value.values():
            yield from references(child)
    elif isinstance(value, list):
        for child in value:
            yield from references(child)


@pytest.mark.parametrize("path", ["/", "/docs"])
async def test_pages_load_nothing_from_elsewhere(mesh: Running, path: str):
    answer = await mesh.client.get(path)
    assert answer.status_code == 200
    assert not re.search(r"https?://", answer.text)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/=]{44}'", policy)


async def test_openapi_describes_what_vendors_clients_call(mesh: Running):
    paths = (await mesh.client.get("/openapi.json")).json()["paths"]
    for path in ("/v1/chat/completions", "/v1/embeddings", "/v1/messages", "/v1/messages/count_tokens"):
        assert "$ref" in paths[path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"/v1/models", "/v1/models/{model}"} <= paths.keys()
