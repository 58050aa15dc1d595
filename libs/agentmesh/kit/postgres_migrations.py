"""Brings a PostgreSQL database up to date, one process at a time, for whichever service ships the migrations."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agentmesh.kit import migrations
from agentmesh.kit.migrations import Applied, Migration

_LOCK = 0x61676D65  # the key of the advisory lock: "agme"


@dataclass(frozen=True, slots=True)
class PostgresMigrations:
    """The migrations of one service; `table` says which of them a database has. Connections are asyncpg's."""

    shipped: Sequence[Migration]
    table: str

    async def pending(self, connection: Any) -> list[Migration]:
        """Return what is still to be applied; raise WrongState if the database is not of this line."""
        if not await connection.fetchval(f"SELECT to_regclass('{self.table}') IS NOT NULL"):
            return list(self.shipped)
        rows = await connection.fetch(f"SELECT version, checksum, runs_with FROM {self.table}")
        applied = {row["version"]: Applied(row["checksum"], row["runs_with"]) for row in rows}
        return migrations.lacking(self.shipped, applied)

    async def migrate(self, connection: Any) -> list[str]:
        """Apply what is pending, each migration in a transaction, under an advisory lock; return their names."""
        done = []
        # Whoever else migrates may take as long as its migrations need.
        await connection.execute("SET statement_timeout = 0; SET lock_timeout = 0")
        await connection.fetchval("SELECT pg_advisory_lock($1)", _LOCK, timeout=600)
        try:
            await connection.execute(f"""CREATE TABLE IF NOT EXISTS {self.table} (
              version integer PRIMARY KEY, name text NOT NULL, checksum text NOT NULL, runs_with integer NOT NULL,
              applied_time timestamptz NOT NULL DEFAULT now())""")
            for migration in await self.pending(connection):
                async with connection.transaction():
                    await connection.execute(migration.sql, timeout=600)
                    await connection.execute(
                        f"INSERT INTO {self.table} (version, name, checksum, runs_with) VALUES ($1, $2, $3, $4)",
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

    async def prepare(self, connection: Any, *, create_tables: bool) -> None:
        """Apply what is missing if that is allowed; raise WrongState if the database can't be used."""
        if create_tables:
            await self.migrate(connection)
        else:
            migrations.check_all_applied(await self.pending(connection))

    async def command(self, connection: Any, *, apply: bool) -> list[dict[str, str]]:
        """Do what `agentmesh migrate status|up` asks; return each migration with applied, pending or done."""
        waiting = {migration.name for migration in await self.pending(connection)}
        done = set(await self.migrate(connection)) if apply else set()
        return migrations.rows(self.shipped, waiting, done)
