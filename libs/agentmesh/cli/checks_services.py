"""Doctor's checks of a mesh: who is at each port, how fast it answers, which agents and models there are."""

import asyncio
import time
import urllib.parse

from grpc_health.v1 import health_pb2, health_pb2_grpc

from agentmesh.cli import probing
from agentmesh.cli.checks_here import Check
from agentmesh.client import AsyncClient
from agentmesh.kit import lifecycle, names, rpc_client
from agentmesh.kit.errors import MeshError
from agentmesh.kit.folder_lock import FolderLock
from agentmesh.kit.model_settings import Provider
from agentmesh.kit.settings import Settings

_TIMEOUT_S = 3.0
_SLOW_MS = 250.0
_START = "start it with: agentmesh up"


async def of_mesh(settings: Settings) -> list[Check]:
    """Check every service that the configuration names, the agents, and the models' providers."""
    roles = [role for role in names.ROLES if role != names.GATEWAY]
    answers = await asyncio.gather(*(_grpc_service(settings, role) for role in roles), _gateway(settings))
    checks = list(answers)
    up = [check for check in checks if check.status == "ok"]
    checks.append(_lock(settings, running=bool(up)))
    if checks[roles.index(names.ROUTER)].status == "ok":
        checks.append(await _agents(settings))
    checks += await asyncio.gather(*(_provider(provider) for provider in settings.llm.providers))
    return checks


async def _grpc_service(settings: Settings, role: str) -> Check:
    address = getattr(settings.services, role).addresses[0]
    if not await _listens(address):
        return Check(role, "failed", f"nothing listens on {address}", _START)
    started = time.perf_counter()
    try:
        async with rpc_client.open_channel(address, trust=lifecycle.trust_of(settings)) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            answer = await rpc_client.unary(stub.Check, health_pb2.HealthCheckRequest(), timeout_s=_TIMEOUT_S)
    except MeshError as error:
        advice = "another program may have the port: stop it, or choose other ports with --ports-from"
        return Check(role, "failed", f"{address} does not speak gRPC health: {error.message}", advice)
    took_ms = (time.perf_counter() - started) * 1000
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        word = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        return Check(
            role, "failed", f"{address} says {word}", "see its log; it waits for a service it needs, or drains"
        )
    return _timed(role, f"{address} is SERVING", took_ms)


async def _gateway(settings: Settings) -> Check:
    """Ask the gateway whether it is ready, over TLS if it speaks that."""
    address = settings.services.gateway.addresses[0]
    if not await _listens(address):
        return Check(names.GATEWAY, "failed", f"nothing listens on {address}", _START)
    started = time.perf_counter()
    answer = await probing.ask(settings, names.GATEWAY, timeout_s=_TIMEOUT_S, address=address)
    if answer == probing.UNREACHABLE:
        return Check(names.GATEWAY, "failed", f"{address} does not answer", "see its log")
    if answer != probing.SERVING:
        advice = "see its log; the router must be SERVING first"
        return Check(names.GATEWAY, "failed", f"{address} says {answer}", advice)
    return _timed(names.GATEWAY, f"{address} is ready", (time.perf_counter() - started) * 1000)


async def _agents(settings: Settings) -> Check:
    router = settings.services.router.addresses
    try:
        async with AsyncClient(router, ca=settings.services.tls.ca, timeout_s=_TIMEOUT_S, retry_for_s=0) as client:
            found = await client.agents()
    except MeshError as error:
        return Check("agents", "failed", error.message, "set AGENTMESH_TOKEN if the mesh demands a key")
    served = [agent.name for agent in found if agent.serving]
    if not served:
        return Check("agents", "failed", "none is served", "is the runner up, and does its log name a faulty agent?")
    return Check("agents", "ok", ", ".join(served))


async def _provider(provider: Provider) -> Check:
    """See whether a provider's address can be reached; the key is not tried, because that may cost money."""
    name = f"provider {provider.name}"
    if provider.base_url is None:
        return Check(name, "ok", "works without a network")
    parts = urllib.parse.urlsplit(provider.base_url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if await _listens(f"{parts.hostname}:{port}"):
        return Check(name, "ok", f"{parts.hostname}:{port} can be reached")
    advice = "check the network, a proxy, or llm.providers in the configuration; other providers go on working"
    return Check(name, "failed", f"{parts.hostname}:{port} can't be reached", advice)


def _lock(settings: Settings, *, running: bool) -> Check:
    if not settings.data_dir.exists():
        return Check("data folder lock", "ok", "free")
    try:
        FolderLock(settings.data_dir).release()
    except MeshError:
        if running:
            return Check("data folder lock", "ok", "held by the mesh that runs")
        advice = "stop the process that holds it, or pass another --data-dir"
        return Check("data folder lock", "failed", "held by a storage that is not at the configured port", advice)
    return Check("data folder lock", "ok", "free")


async def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
            writer.close()
            return True
    except (OSError, TimeoutError):
        return False


def _timed(name: str, detail: str, took_ms: float) -> Check:
    if took_ms > _SLOW_MS:
        return Check(name, "note", f"{detail}, but took {took_ms:.0f} ms", "is this machine busy?")
    return Check(name, "ok", f"{detail}, {took_ms:.0f} ms")
