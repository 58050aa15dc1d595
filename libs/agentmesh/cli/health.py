"""`agentmesh health`: asks services whether they are ready, for health checks of containers that have no curl."""

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import click
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from agentmesh.cli import failures
from agentmesh.cli.settings_options import load_settings, settings_options
from agentmesh.kit import lifecycle, names, rpc_client
from agentmesh.kit.errors import MeshError
from agentmesh.kit.setting_types import WILDCARDS, joined
from agentmesh.kit.settings import Settings

_SERVING = "SERVING"


@click.command()
@click.argument("roles", metavar="[ROLE]...", nargs=-1, type=click.Choice(names.ROLES))
@click.option("--live", is_flag=True, help="Only whether they answer, ready or not.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(0.1, 60), default=3.0, help="Seconds; 3 by default.")
@settings_options
@click.option("--json", "as_json", is_flag=True, help="JSON, for scripts.")
@failures.reported
def health(
    roles: tuple[str, ...],
    live: bool,
    timeout_s: float,
    config_file: Path | None,
    data_dir: Path | None,
    first_port: int | None,
    as_json: bool,
) -> None:
    """Ask the services on this machine whether they are ready; exit with 1 unless all are.

    Without a ROLE, all five are asked. Each is asked where it listens: at its `health_port`, if it has one.
    """
    settings = load_settings(config_file, data_dir, first_port)
    answers = asyncio.run(_ask_all(settings, roles or names.ROLES, live, timeout_s))
    if as_json:
        print(json.dumps(answers))
    else:
        for role, answer in answers.items():
            print(f"{role:8} {answer}")
    sys.exit(failures.COMPLETED if set(answers.values()) == {_SERVING} else failures.FAILED)


async def _ask_all(settings: Settings, roles: tuple[str, ...], live: bool, timeout_s: float) -> Mapping[str, str]:
    answers = await asyncio.gather(*(_ask(settings, role, live, timeout_s) for role in roles))
    return dict(zip(roles, answers, strict=True))


async def _ask(settings: Settings, role: str, live: bool, timeout_s: float) -> str:
    """Return the status of a service as the health protocol names it, or UNREACHABLE."""
    endpoint = getattr(settings.services, role)
    host = WILDCARDS.get(endpoint.bound_host, endpoint.bound_host)
    if endpoint.health_port is not None:
        return await _grpc(joined(host, endpoint.health_port), None, live, timeout_s)
    address = joined(host, endpoint.port)
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
            return "UNREACHABLE" if unreachable else error.code.name
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
        return "UNREACHABLE"
    return _SERVING if words[1:2] == [b"200"] else "NOT_" + _SERVING
