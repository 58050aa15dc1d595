"""Health, OpenAPI and the pages for people."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

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
