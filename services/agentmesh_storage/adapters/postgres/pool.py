"""Connections to PostgreSQL: lent with a deadline, and replaced by age."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from asyncpg import exceptions

from agentmesh.kit import telemetry
from agentmesh.kit.errors import MeshError, Unavailable, WrongState
from agentmesh.kit.settings import Database
from agentmesh.kit.sql_echo import SqlEcho

log = telemetry.logger(__name__)

COMMAND_TIMEOUT_S = 10.0
_CONNECT_TIMEOUT_S = 5.0
_IDLE_S = 60.0
_FIRST_RETRY_S, _LAST_RETRY_S = 0.1, 2.0
_CLOSE_S = 5.0

_SERVER_SETTINGS = {
    "application_name": "agentmesh-storage",
    # The writer's plans are pinned: statistics of a table that is new, or has just grown, choose scans.
    "enable_seqscan": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
    "lock_timeout": "5s",
    "statement_timeout": "10s",
    # A frozen storage process must not hold rows that another one needs.
    "idle_in_transaction_session_timeout": "5s",
}

# The database is not there, not now, or not for writing; the next try may find it.
GONE = (
    exceptions.PostgresConnectionError,
    exceptions.InterfaceError,
    exceptions.OperatorInterventionError,
    exceptions.InsufficientResourcesError,
    exceptions.InvalidTransactionStateError,
    exceptions.LockNotAvailableError,
    exceptions.InternalServerError,
    exceptions.InternalClientError,
    OSError,
    TimeoutError,
)
# It is there, and will say the same again.
_REFUSED = (
    exceptions.InvalidAuthorizationSpecificationError,
    exceptions.InvalidCatalogNameError,
    exceptions.InsufficientPrivilegeError,
)

Connection = Any  # asyncpg's pool lends proxies of its connections


_LONGEST_REPLAN = 64


class _Dated(asyncpg.Connection):  # type: ignore[misc] # asyncpg has no types
    """A connection that knows how old it and its plans are, in seconds of the monotonic clock."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.born = self._planned = time.monotonic()

    def is_to_replan(self, least_s: float) -> bool:
        """Say whether plans are due to be made anew; if so they are taken for new from now on."""
        now = time.monotonic()
        wait_s = min(max(self._planned - self.born, least_s), _LONGEST_REPLAN * least_s)
        due = now - self._planned >= wait_s
        if due:
            self._planned = now
        return due


class Pool:
    """Lends connections; see `Database` for its sizes and times. Made by `open_pool`.

    A statement's plan stays with its connection. What was planned while a table was empty reads all of it when it is
    big, so that plans are made anew when the connection is `replan_s` old, then at twice that age, and so on, and at
    least every 64 times `replan_s`.
    """

    def __init__(self, pool: "asyncpg.Pool[Any]", settings: Database, *, replan_s: float = 1.0) -> None:
        self._pool = pool
        self._acquire_s = settings.pool_timeout
        self._recycle_s = settings.pool_recycle
        self._replan_s = replan_s

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[Connection]:
        """Lend a connection; raise Unavailable if none is free in time or the database is gone."""
        try:
            connection = await self._pool.acquire(timeout=self._acquire_s)
        except TimeoutError as error:
            raise Unavailable(
                "storage has no database connection to spare", reason="DATABASE_POOL_EXHAUSTED", retry_after_s=1
            ) from error
        except (*GONE, *_REFUSED) as error:
            raise _lost() from error
        try:
            if connection.is_to_replan(self._replan_s):
                await connection.execute("DISCARD PLANS")
            yield connection
        except (*GONE, asyncio.CancelledError):
            # What it was doing may still go on there; whoever gets it next must not meet that.
            connection.terminate()
            raise
        finally:
            if self._is_old(connection):
                connection.terminate()
            await self._give_back(connection)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Lend a connection inside BEGIN … COMMIT, or ROLLBACK; raise Unavailable if the database is gone."""
        try:
            async with self.lend() as connection, connection.transaction():
                yield connection
        except MeshError:
            raise
        except GONE as error:
            raise _lost() from error

    async def fetch(self, sql: str, *parameters: object) -> list[Any]:
        """Run one statement and return its rows; raise Unavailable if the database is gone."""
        try:
            async with self.lend() as connection:
                rows: list[Any] = await connection.fetch(sql, *parameters)
                return rows
        except GONE as error:
            raise _lost() from error

    async def aclose(self) -> None:
        """Close every connection, those in use too after a while."""
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    async def _give_back(self, connection: Connection) -> None:
        try:
            await self._pool.release(connection, timeout=_CLOSE_S)
        except GONE as error:
            # Raised here, it would stand in the place of a cancellation that is on its way.
            log.info("connection_not_given_back", kind=type(error).__name__)

    def _is_old(self, connection: Connection) -> bool:
        return not connection.is_closed() and time.monotonic() - connection.born >= self._recycle_s


async def open_pool(settings: Database, *, replan_s: float = 1.0) -> Pool:
    """Connect, waiting for a database that is not up yet; raise WrongState if it refuses us."""
    wait_s = _FIRST_RETRY_S
    while True:
        try:
            return Pool(await _connect(settings), settings, replan_s=replan_s)
        except _REFUSED as error:
            raise WrongState(
                "the database refuses the connection: are user, password and database name right?",
                reason="DATABASE_REFUSED",
            ) from error
        except GONE as error:
            log.warning("database_not_reached", kind=type(error).__name__, retry_in_s=wait_s)
        await asyncio.sleep(wait_s)
        wait_s = min(wait_s * 2, _LAST_RETRY_S)


async def connect(url: str) -> Connection:
    """Open one connection outside of any pool."""
    return await asyncpg.connect(
        url, timeout=_CONNECT_TIMEOUT_S, command_timeout=COMMAND_TIMEOUT_S, server_settings=_SERVER_SETTINGS
    )


def gone() -> Unavailable:
    """Say that the database is gone."""
    return Unavailable("the database can't be reached", reason="DATABASE_UNAVAILABLE", retry_after_s=1)


def _lost() -> BaseException:
    """Return what a lost connection means: that the database is gone, or a cancel that asyncpg made one of."""
    task = asyncio.current_task()
    return asyncio.CancelledError() if task is not None and task.cancelling() else gone()


async def _connect(settings: Database) -> "asyncpg.Pool[Any]":
    assert settings.url is not None
    return await asyncpg.create_pool(
        settings.url.get_secret_value(),
        min_size=min(2, settings.pool_size),
        max_size=settings.pool_size + settings.max_overflow,
        max_inactive_connection_lifetime=_IDLE_S,
        timeout=_CONNECT_TIMEOUT_S,
        command_timeout=COMMAND_TIMEOUT_S,
        statement_cache_size=256,
        server_settings=_SERVER_SETTINGS,
        connection_class=_Dated,
        reset=_nothing,  # it would cost each use a round trip; nothing here leaves a trace in a session
        init=_echoing(SqlEcho()) if settings.echo else None,
    )


async def _nothing(connection: Connection) -> None:
    pass


def _echoing(echo: SqlEcho) -> Callable[[Connection], Awaitable[None]]:
    async def init(connection: Connection) -> None:
        connection.add_query_logger(lambda query: echo.note(query.query, query.elapsed))

    return init
