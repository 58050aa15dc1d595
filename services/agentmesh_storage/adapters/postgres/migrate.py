"""Brings storage's PostgreSQL database up to date."""

import asyncio
from pathlib import Path
from typing import Any

from agentmesh.kit import migrations
from agentmesh.kit.errors import WrongState
from agentmesh.kit.migrations import Migration
from agentmesh.kit.postgres_migrations import PostgresMigrations
from agentmesh.kit.settings import Settings
from agentmesh_storage.adapters.postgres.pool import GONE, connect, gone

_FOLDER = Path(__file__).parent / "migrations"
_TABLE = "schema_migrations"


def shipped() -> list[Migration]:
    """Return the migrations that this release ships, in order."""
    return migrations.shipped(_FOLDER)


async def pending(connection: Any) -> list[Migration]:
    """See PostgresMigrations."""
    return await PostgresMigrations(shipped(), _TABLE).pending(connection)


async def migrate(connection: Any) -> list[str]:
    """See PostgresMigrations."""
    return await PostgresMigrations(shipped(), _TABLE).migrate(connection)


async def prepare(url: str, *, create_tables: bool) -> None:
    """Apply what is missing if that is allowed; raise WrongState if the database can't be used."""
    connection = await connect(url)
    try:
        await PostgresMigrations(shipped(), _TABLE).prepare(connection, create_tables=create_tables)
    finally:
        connection.terminate()


def command(settings: Settings, action: str, dry_run: bool) -> list[dict[str, str]]:
    """Do what `agentmesh migrate status|up` asks; return each migration with applied, pending or done."""
    return asyncio.run(_command(settings, apply=action == "up" and not dry_run))


async def _command(settings: Settings, *, apply: bool) -> list[dict[str, str]]:
    url = settings.database.url
    if url is None:
        raise WrongState("database.url names no PostgreSQL database", reason="NO_SUCH_BACKEND")
    try:
        connection = await connect(url.get_secret_value())
    except GONE as error:
        raise gone() from error
    try:
        return await PostgresMigrations(shipped(), _TABLE).command(connection, apply=apply)
    finally:
        await connection.close()
