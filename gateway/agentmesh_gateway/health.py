"""Says whether the gateway lives, can serve, and how each service behind it is."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from agentmesh.kit import names, rpc_client
from agentmesh_gateway.settings import Bounds

_NO_STORE = {"cache-control": "no-store"}
_UNREACHABLE = "UNREACHABLE"
_SERVING = "SERVING"


class ServiceHealth:
    """Asks each service's health protocol, all at once, at most every `health_cache_s` seconds."""

    def __init__(
        self, services: Mapping[str, Sequence[str]], *, trust: rpc_client.Trust | None, bounds: Bounds
    ) -> None:
        self._bounds = bounds
        self._channels = {
            name: [rpc_client.open_channel(address, trust=trust) for address in addresses]
            for name, addresses in services.items()
        }
        self._known: dict[str, dict[str, Any]] = {}
        self._known_at: dict[str, float] = {}
        self._locks = {name: asyncio.Lock() for name in services}

    async def aclose(self) -> None:
        """Close every connection."""
        for channels in self._channels.values():
            for channel in channels:
                await channel.close(None)

    async def serves(self, service: str) -> bool:
        """Whether one instance of a service is ready for calls."""
        return bool((await self._service(service))["status"] == _SERVING)

    async def all(self) -> dict[str, dict[str, Any]]:
        """Return each service's status and latency in milliseconds, and its instances' if there are several."""
        found = await asyncio.gather(*(self._service(name) for name in self._channels))
        return dict(zip(self._channels, found, strict=True))

    async def _service(self, name: str) -> dict[str, Any]:
        # The lock makes those that ask at the same time share one answer.
        async with self._locks[name]:
            known_at = self._known_at.get(name)
            if known_at is None or time.monotonic() - known_at >= self._bounds.health_cache_s:
                instances = await asyncio.gather(*(self._ask(channel) for channel in self._channels[name]))
                self._known[name] = _summary(instances)
                self._known_at[name] = time.monotonic()
            return self._known[name]

    async def _ask(self, channel: grpc.aio.Channel) -> dict[str, Any]:
        started = time.perf_counter()
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            statuses = await self._statuses(stub)
        except grpc.aio.AioRpcError as error:
            code = error.code()
            unreachable = code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            statuses = {"": _UNREACHABLE if unreachable else code.name}
        dependencies = {
            name.removeprefix(names.DEPENDENCY_PREFIX): _word(status == _SERVING)
            for name, status in sorted(statuses.items())
            if name.startswith(names.DEPENDENCY_PREFIX)
        }
        latency_ms = round((time.perf_counter() - started) * 1000, 2)
        return {"status": statuses[""], "latency_ms": latency_ms, "dependencies": dependencies}

    async def _statuses(self, stub: Any) -> dict[str, str]:
        """Return what a service says of itself, by name; of itself alone where it knows no list, as older ones do."""
        timeout_s = self._bounds.health_timeout_s
        found: dict[str, Any] = {}
        try:
            found |= (await stub.List(health_pb2.HealthListRequest(), timeout=timeout_s)).statuses
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                raise
        if "" not in found:
            found[""] = await stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        name_of = health_pb2.HealthCheckResponse.ServingStatus.Name
        return {name: str(name_of(answer.status)) for name, answer in found.items()}


class HealthPages:
    """The three health paths; they need no credential, and name no address. `needed`, if any, decides on readiness."""

    def __init__(self, services: ServiceHealth, needed: str, leaving: asyncio.Event) -> None:
        self._services = services
        self._needed = needed
        self._leaving = leaving

    async def live(self, _: Request) -> Response:
        """Say that the process answers."""
        return JSONResponse({"status": "healthy", "timestamp": _now()}, headers=_NO_STORE)

    async def ready(self, _: Request) -> Response:
        """Say whether requests can be served: 503 while the needed service is not there, and from SIGTERM on."""
        if self._leaving.is_set():
            status = "draining"
        else:
            there = not self._needed or await self._services.serves(self._needed)
            status = "ready" if there else "not ready"
        body = {"status": status, "timestamp": _now()}
        return JSONResponse(body, 200 if status == "ready" else 503, headers=_NO_STORE)

    async def detailed(self, _: Request) -> Response:
        """Say how each service is, and what it depends on; 503 unless all of them serve.

        `degraded` are services that do without something, such as Redis.
        """
        services = await self._services.all()
        checks = {
            name: {**service, "status": _word(service["status"] == _SERVING), "health": service["status"]}
            for name, service in services.items()
        }
        healthy = all(check["health"] == _SERVING for check in checks.values())
        whole = all(word == _word(True) for check in checks.values() for word in check["dependencies"].values())
        status = _word(healthy) if whole or not healthy else "degraded"
        body = {"status": status, "timestamp": _now(), "checks": checks}
        return JSONResponse(body, 200 if healthy else 503, headers=_NO_STORE)


def _word(healthy: bool) -> str:
    return "healthy" if healthy else "unhealthy"


def _summary(instances: Sequence[dict[str, Any]]) -> dict[str, Any]:
    best = min(instances, key=lambda instance: (instance["status"] != _SERVING, instance["latency_ms"]))
    return best if len(instances) == 1 else best | {"instances": list(instances)}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
