"""Asks a service of this machine how it is, over what it speaks: gRPC or HTTP, with or without TLS."""

import asyncio
import socket

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from agentmesh.kit import lifecycle, names, rpc_client
from agentmesh.kit.errors import MeshError
from agentmesh.kit.setting_types import WILDCARDS, joined
from agentmesh.kit.settings import Settings

SERVING, UNREACHABLE = "SERVING", "UNREACHABLE"

_CONNECT_S = 0.2  # on this machine it is a matter of microseconds


def listens(address: str) -> bool:
    """Say whether anything accepts connections at an address of this machine."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except OSError:
        return False
    return True


async def ask(settings: Settings, role: str, *, timeout_s: float, address: str = "", live: bool = False) -> str:
    """Return the status of a service as the health protocol names it, or UNREACHABLE.

    It is asked at `address`, else where the configuration says that it listens: at its `health_port` if it has one.
    With `live`, only whether it answers.
    """
    endpoint = getattr(settings.services, role)
    host = WILDCARDS.get(endpoint.bound_host, endpoint.bound_host)
    if not address and endpoint.health_port is not None:
        return await _grpc(joined(host, endpoint.health_port), None, live, timeout_s)
    address = address or joined(host, endpoint.port)
    if role == names.GATEWAY:
        return await _http(address, settings.services.tls.cert is not None, live, timeout_s)
    # The certificate is for the name that others use, not for the loopback address.
    name = endpoint.addresses[0].rpartition(":")[0].strip("[]")
    return await _grpc(address, lifecycle.trust_of(settings), live, timeout_s, server_name=name)


async def _grpc(
    address: str, trust: rpc_client.Trust | None, live: bool, timeout_s: float, *, server_name: str = ""
) -> str:
    request = health_pb2.HealthCheckRequest(service=names.LIVE if live else "")
    async with rpc_client.open_channel(address, trust=trust, server_name=server_name) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await rpc_client.unary(stub.Check, request, timeout_s=timeout_s)
        except MeshError as error:
            unreachable = error.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            return UNREACHABLE if unreachable else error.code.name
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


async def _http(address: str, tls: bool, live: bool, timeout_s: float) -> str:
    """Ask the gateway in the little HTTP that this takes; its certificate is not checked, as probes don't."""
    import ssl

    context = ssl.create_default_context() if tls else None
    if context is not None:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    host, _, port = address.rpartition(":")
    path = "/health" if live else "/health/ready"
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port), ssl=context)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
            words = (await reader.readline()).split()
            writer.close()
    except (OSError, TimeoutError, ValueError):
        return UNREACHABLE
    return SERVING if words[1:2] == [b"200"] else "NOT_" + SERVING
