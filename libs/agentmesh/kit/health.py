"""The standard health protocol, telling what is true: SERVING only while every dependency is there."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from agentmesh.kit import names, telemetry
from agentmesh.kit.rpc_server import SERVER_OPTIONS, listen

log = telemetry.logger(__name__)

Check = Callable[[], Awaitable[bool]]
"""Says whether a dependency is there now; raising means that it is not."""

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

_serving = telemetry.gauge(names.SERVING, "Whether the service is ready for work", ("role",))
_dependency_up = telemetry.gauge(names.DEPENDENCY_UP, "Whether a dependency is there", ("role", "dependency"))


class _Servicer(health_aio.HealthServicer):  # type: ignore[misc]
    """What grpcio ships lacks the protocol's newest method."""

    async def List(self, _: Any, __: Any) -> Any:  # noqa: N802 - the protocol's name
        statuses = {name: health_pb2.HealthCheckResponse(status=status) for name, status in self._server_status.items()}
        return health_pb2.HealthListResponse(statuses=statuses)


class Health:
    """Readiness of one process, for the name "" and each of its services; for each dependency `dependency.NAME`.

    The name `live` is SERVING as long as the process answers at all. The dependencies are asked every `interval_s`
    seconds, each for at most `interval_s`. Without those in `checks` the process is not ready; the ones that are
    `watched` it can do without.
    """

    def __init__(
        self,
        services: Iterable[str] = (),
        checks: Mapping[str, Check] | None = None,
        *,
        role: str = "",
        interval_s: float = 1.0,
    ) -> None:
        self._services = ("", *services)
        self._checks = dict(checks or {})
        self._watched: dict[str, Check] = {}
        self._role = role
        self._interval_s = interval_s
        self._servicer = _Servicer()
        self._draining = False
        self._serving: bool | None = None
        self._there: dict[str, bool] = {}

    def depend_on(self, services: Iterable[str], checks: Mapping[str, Check], watched: Mapping[str, Check]) -> None:
        """Say what the process serves, what it needs, and what it uses; before `run`."""
        self._services = ("", *services)
        self._checks = dict(checks)
        self._watched = dict(watched)
        self._serving = None

    async def add_to(self, server: grpc.aio.Server) -> None:
        """Serve the health protocol on a server, which may be one of several."""
        # Until the checks were asked. Left alone, gRPC's servicer says SERVING.
        if self._serving is None:
            await self._say(False, ["starting"])
            await self._servicer.set(names.LIVE, _SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    @property
    def serving(self) -> bool:
        """Return what was said last."""
        return bool(self._serving)

    async def run(self) -> None:
        """Keep the answer true until cancelled."""
        while not self._draining:
            await self.refresh()
            await asyncio.sleep(self._interval_s if self._serving else self._interval_s / 10)

    async def refresh(self) -> None:
        """Ask every check once and say the result."""
        every = self._checks | self._watched
        results = await asyncio.gather(*(self._ask(name, check) for name, check in every.items()))
        for name, there in zip(every, results, strict=True):
            await self._note(name, there)
        missing = [name for name in self._checks if not self._there[name]]
        await self._say(not missing and not self._draining, missing)

    async def drain(self) -> None:
        """Say NOT_SERVING from now on."""
        self._draining = True
        await self._say(False, ["draining"])

    async def _ask(self, name: str, check: Check) -> bool:
        try:
            async with asyncio.timeout(self._interval_s):
                return await check()
        except Exception as error:  # noqa: BLE001 - a check that fails in any way is a dependency that is not there
            log.debug("health_check_failed", check=name, error=type(error).__name__)
            return False

    async def _note(self, name: str, there: bool) -> None:
        if self._there.get(name) == there:
            return
        self._there[name] = there
        _dependency_up.labels(self._role, name).set(there)
        await self._servicer.set(names.DEPENDENCY_PREFIX + name, _SERVING if there else _NOT_SERVING)
        if name in self._watched:
            log.info("dependency", name=name, there=there)

    async def _say(self, serving: bool, missing: list[str]) -> None:
        if serving == self._serving:
            return
        self._serving = serving
        log.info("health", serving=serving, missing=missing)
        _serving.labels(self._role).set(serving)
        for service in self._services:
            await self._servicer.set(service, _SERVING if serving else _NOT_SERVING)


async def serve_health(health: Health, address: str, stack: AsyncExitStack) -> int:
    """Serve nothing but the health protocol at host:port, without TLS and credentials, until the stack is left.

    Kubernetes' gRPC probes can show neither. Returns the port; raises PortInUse.
    """
    server = grpc.aio.server(options=SERVER_OPTIONS)
    await health.add_to(server)
    port = listen(server, address)
    await server.start()
    stack.push_async_callback(server.stop, 0)
    return port
