"""Calls the llm-proxy as its operator: whoever holds the mesh's secret, which is where the mesh is run."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click

from agentmesh.api.llm.v1 import key_service_pb2_grpc, llm_service_pb2_grpc
from agentmesh.cli.settings_options import load_settings, settings_options
from agentmesh.kit import lifecycle, names, rpc_client
from agentmesh.kit.setting_types import NAME

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_TIMEOUT_S = 15.0


class Proxy:
    """An llm-proxy as its operator sees it; `tenant` is whose keys and usage are meant, everybody's if empty."""

    def __init__(self, channel: Any, metadata: rpc_client.Metadata) -> None:
        self.keys: Any = key_service_pb2_grpc.KeyServiceStub(channel)
        self.models: Any = llm_service_pb2_grpc.LlmServiceStub(channel)
        self._metadata = metadata

    async def call(self, method: Any, request: Any) -> Any:
        """Make a unary call; raise the MeshError that the proxy meant."""
        return await rpc_client.unary(method, request, timeout_s=_TIMEOUT_S, metadata=self._metadata)


def operator_options(command: F) -> F:
    """Add --tenant, the options that say which configuration the mesh has, and --json."""
    options = (
        click.option("--tenant", default="", callback=_tenant, help="Whose; everybody's unless told otherwise."),
        settings_options,
        click.option("--json", "as_json", is_flag=True, help="Protobuf JSON on standard output, for scripts."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def operate(
    config_file: Path | None,
    data_dir: Path | None,
    first_port: int | None,
    tenant: str,
    work: Callable[[Proxy], Coroutine[Any, Any, T]],
) -> T:
    """Run one piece of work with the llm-proxy that the configuration names."""
    settings = load_settings(config_file, data_dir, first_port)
    services = settings.services
    token = lifecycle.keyring_of(settings).role_token(names.OPERATOR)
    whose = ((names.TENANT, tenant),) if tenant else ()

    async def run() -> T:
        async with rpc_client.open_channel(services.llm.addresses[0], trust=lifecycle.trust_of(settings)) as channel:
            return await work(Proxy(channel, (*rpc_client.bearer(token), *whose)))

    return asyncio.run(run())


def _tenant(_: click.Context, __: click.Parameter, value: str) -> str:
    if value and not NAME.fullmatch(value):
        raise click.BadParameter("must be letters and digits, and after the first one also . _ -")
    return value
