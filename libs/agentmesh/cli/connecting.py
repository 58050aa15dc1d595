"""What every command that talks to a mesh shares: its options, and a client made from them."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click

from agentmesh.client import AsyncClient
from agentmesh.client.channels import SYSTEM

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

# Long enough for a mesh that is just starting, short enough for a person who forgot to start it.
_FIRST_CONTACT_S = 2.0


def _ca(_: click.Context, __: click.Parameter, value: Path | None) -> Path | None:
    if value is not None and value != SYSTEM and not value.is_file():
        raise click.BadParameter(f"there is no file {value}; `system` stands for the authorities of this system")
    return value


def mesh_options(command: F) -> F:
    """Add --address, --ca and --json."""
    options = (
        click.option(
            "--address",
            envvar="AGENTMESH_ADDRESS",
            show_envvar=True,
            help="host:port of the mesh, or several, separated by commas; 127.0.0.1:50051 by default.",
        ),
        click.option(
            "--ca",
            type=click.Path(path_type=Path),
            callback=_ca,
            envvar="AGENTMESH_CA",
            show_envvar=True,
            help="PEM file of the authority that signed the mesh's certificate, or `system`; without it, no TLS.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Protobuf JSON on standard output, for scripts."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def connect(address: str | None, ca: Path | None) -> AsyncClient:
    """Make a client; the token comes from AGENTMESH_TOKEN. Raises InvalidRequest for a bad address."""
    return AsyncClient(address, ca=ca, first_contact_s=_FIRST_CONTACT_S)


def call(address: str | None, ca: Path | None, work: Callable[[AsyncClient], Coroutine[Any, Any, T]]) -> T:
    """Run one piece of work with a client, to its end."""

    async def run() -> T:
        async with connect(address, ca) as client:
            return await work(client)

    return asyncio.run(run())
