"""Keeps the books in the mesh's PostgreSQL database; a database that is away is looked for again at each call."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg
from asyncpg import exceptions

from agentmesh.kit import migrations
from agentmesh.kit.errors import Unavailable, WrongState
from agentmesh.kit.postgres_migrations import PostgresMigrations
from agentmesh.kit.settings import Database, Settings
from agentmesh_llm.adapters import books_sql as sql
from agentmesh_llm.books.records import Entry, UsageQuery, UsageSum, VirtualKey

_MIGRATIONS = PostgresMigrations(migrations.shipped(Path(__file__).parent / "migrations"), "llm_schema_migrations")
_CONNECTIONS = 4
_TIMEOUT_S = 5.0
_CLOSE_S = 5.0
# A connection that is used between the server's farewell and its closing fails as an InternalClientError.
_FAILED = (
    exceptions.PostgresError,
    exceptions.InterfaceError,
    exceptions.InternalClientError,
    OSError,
    TimeoutError,
)


class PostgresBooks:
    """See Books."""

    def __init__(self, settings: Database) -> None:
        self._settings = settings
        self._pool: Any = None
        self._opening = asyncio.Lock()

    async def add_key(self, key: VirtualKey) -> None:
        """See Books."""
        await self._fetch(sql.ADD_KEY, *sql.key_row(key))

    async def key_by_digest(self, sha256: str) -> VirtualKey | None:
        """See Books."""
        return _one(await self._fetch(sql.KEY_BY_DIGEST, sha256))

    async def key_by_id(self, key_id: str) -> VirtualKey | None:
        """See Books."""
        return _one(await self._fetch(sql.KEY_BY_ID, key_id))

    async def keys(self, tenant: str, limit: int) -> list[VirtualKey]:
        """See Books."""
        return [sql.to_key(row) for row in await self._fetch(sql.KEYS, tenant, limit)]

    async def revoke(self, tenant: str, key_id: str, now_ms: int) -> VirtualKey | None:
        """See Books."""
        await self._fetch(sql.REVOKE, tenant, key_id, now_ms)
        key = await self.key_by_id(key_id)
        return key if key is not None and tenant in ("", key.tenant) else None

    async def add_usage(self, entries: Sequence[Entry]) -> None:
        """See Books."""
        days, tasks = sql.usage_rows(entries)
        try:
            async with (
                asyncio.timeout(_TIMEOUT_S),
                (await self._opened()).acquire() as connection,
                connection.transaction(),
            ):
                await connection.executemany(sql.ADD_USAGE, days)
                await connection.executemany(sql.ADD_TASK_USAGE, tasks)
        except _FAILED as error:
            raise _gone() from error

    async def usage(self, query: UsageQuery) -> list[UsageSum]:
        """See Books."""
        statement, parameters = sql.usage_query(query)
        return [sql.to_sum(query, row) for row in await self._fetch(statement, *parameters)]

    async def prune(self, days_before: str, tasks_before: str) -> None:
        """See Books."""
        await self._fetch(sql.PRUNE_DAYS, days_before)
        await self._fetch(sql.PRUNE_TASKS, tasks_before)

    async def aclose(self) -> None:
        """See Books."""
        if self._pool is not None:
            try:
                async with asyncio.timeout(_CLOSE_S):
                    await self._pool.close()
            except TimeoutError:
                self._pool.terminate()

    async def _fetch(self, statement: str, *parameters: Any) -> list[Any]:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                rows: list[Any] = await (await self._opened()).fetch(statement, *parameters)
                return rows
        except _FAILED as error:
            raise _gone() from error

    async def _opened(self) -> Any:
        async with self._opening:
            if self._pool is None:
                pool = await _pool(self._settings)
                try:
                    async with pool.acquire() as connection:
                        await _MIGRATIONS.prepare(connection, create_tables=self._settings.create_tables)
                except BaseException:
                    pool.terminate()
                    raise
                self._pool = pool
            return self._pool


def command(settings: Settings, action: str, dry_run: bool) -> list[dict[str, str]]:
    """Do what `agentmesh migrate` asks for the books."""
    return asyncio.run(_command(settings, apply=action == "up" and not dry_run))


async def _command(settings: Settings, *, apply: bool) -> list[dict[str, str]]:
    if settings.database.url is None:
        raise WrongState("database.url names no PostgreSQL database", reason="NO_SUCH_BACKEND")
    try:
        connection = await asyncpg.connect(settings.database.url.get_secret_value(), timeout=_TIMEOUT_S)
    except _FAILED as error:
        raise _gone() from error
    try:
        return await _MIGRATIONS.command(connection, apply=apply)
    finally:
        await connection.close()


async def _pool(settings: Database) -> Any:
    assert settings.url is not None
    return await asyncpg.create_pool(
        settings.url.get_secret_value(),
        min_size=1,
        max_size=_CONNECTIONS,
        timeout=_TIMEOUT_S,
        command_timeout=_TIMEOUT_S,
        server_settings={"application_name": "agentmesh-llm", "statement_timeout": "5s"},
    )


def _one(rows: Sequence[Any]) -> VirtualKey | None:
    return sql.to_key(rows[0]) if rows else None


def _gone() -> Unavailable:
    return Unavailable("the books can't be reached", reason="BOOKS_UNAVAILABLE", retry_after_s=1)
