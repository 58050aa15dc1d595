"""The standard health protocol, telling what is true: SERVING only while every dependency is there."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from agentmesh.kit import telemetry

log = telemetry.logger(__name__)

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """Readiness of one process, for the name "" and each of its services.

    `checks` are the dependencies by name; each returns whether it is there now. They are asked every
    `interval_s` seconds, each for at most `interval_s`.
    """

    def __init__(
        self,
        services: Iterable[str],
        checks: dict[str, Callable[[], Awaitable[bool]]],
        *,
        interval_s: float = 1.0,
    ) -> None:
        self._services = ("", *services)
        self._checks = checks
        self._interval_s = interval_s
        self._servicer = health_aio.HealthServicer()
        self._draining = False
        self._serving: bool | None = None

    async def add_to(self, server: grpc.aio.Server) -> None:
        """Serve the health protocol on a server."""
        # Until the checks were asked. Left alone, gRPC's servicer says SERVING.
        await self._say(False, ["starting"])
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
        results = await asyncio.gather(*(self._ask(name) for name in self._checks))
        missing = [name for name, there in zip(self._checks, results, strict=True) if not there]
        await self._say(not missing and not self._draining, missing)

    async def drain(self) -> None:
        """Say NOT_SERVING from now on."""
        self._draining = True
        await self._say(False, ["draining"])

    async def _ask(self, name: str) -> bool:
        try:
            async with asyncio.timeout(self._interval_s):
                return await self._checks[name]()
        except Exception as error:  # noqa: BLE001 - a check that fails in any way is a dependency that is not there
            log.debug("health_check_failed", check=name, error=type(error).__name__)
            return False

    async def _say(self, serving: bool, missing: list[str]) -> None:
        if serving == self._serving:
            return
        self._serving = serving
        log.info("health", serving=serving, missing=missing)
        for service in self._services:
            await self._servicer.set(service, _SERVING if serving else _NOT_SERVING)
