"""Brings a PostgreSQL database's schema up to date, one process at a time."""

import asyncio
from pathlib import Path
from typing import Any

from agentmesh.kit.errors import WrongState
from agentmesh.kit.settings import Settings
from agentmesh_storage.adapters import migrations
from agentmesh_storage.adapters.migrations import Applied, Migration
from agentmesh_storage.adapters.postgres.pool import GONE, connect, gone

_FOLDER = Path(__file__).parent / "migrations"
_LOCK = 0x61676D65  # the key of the advisory lock: "agme"
_EXISTS = "SELECT to_regclass('schema_migrations') IS NOT NULL"
_TABLE = """CREATE TABLE IF NOT EXISTS schema_migrations (
  version integer PRIMARY KEY, name text NOT NULL, checksum text NOT NULL, runs_with integer NOT NULL,
  applied_time timestamptz NOT NULL DEFAULT now()
)"""


def shipped() -> list[Migration]:
    """Return the migrations that this release ships, in order."""
    return migrations.shipped(_FOLDER)


async def pending(connection: Any) -> list[Migration]:
    """Return what is still to be applied; raise WrongState if the database is not of this line."""
    if not await connection.fetchval(_EXISTS):
        return shipped()
    rows = await connection.fetch("SELECT version, checksum, runs_with FROM schema_migrations")
    applied = {row["version"]: Applied(row["checksum"], row["runs_with"]) for row in rows}
    return migrations.lacking(shipped(), applied)


async def migrate(connection: Any) -> list[str]:
    """Apply what is pending, each migration in a transaction, under an advisory lock; return their names."""
    done = []
    # Whoever else migrates may take as long as its migrations need.
    await connection.execute("SET statement_timeout = 0; SET lock_timeout = 0")
    await connection.fetchval("SELECT pg_advisory_lock($1)", _LOCK, timeout=600)
    try:
        await connection.execute(_TABLE)
        for migration in await pending(connection):
            async with connection.transaction():
                await connection.execute(migration.sql, timeout=600)
                await connection.execute(
                    "INSERT INTO schema_migrations (version, name, checksum, runs_with) VALUES ($1, $2, $3, $4)",
                    migration.version,
                    migration.name,
                    migration.checksum,
                    migration.runs_with,
                )
            done.append(migration.name)
    finally:
        if not connection.is_closed():
            await connection.fetchval("SELECT pg_advisory_unlock($1)", _LOCK)
    return done


async def prepare(url: str, *, create_tables: bool) -> None:
    """Apply what is missing if that is allowed; raise WrongState if the database can't be used."""
    connection = await connect(url)
    try:
        if create_tables:
            await migrate(connection)
        else:
            migrations.check_all_applied(await pending(connection))
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
        waiting = {migration.name for migration in await pending(connection)}
        done = set(await migrate(connection)) if apply else set()
    finally:
        await connection.close()
    return migrations.rows(shipped(), waiting, done)
