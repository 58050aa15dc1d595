"""Keeps the books in a SQLite file of their own, apart from the tasks' so that the llm-proxy can be alone."""

import asyncio
import re
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from agentmesh.kit import migrations, sqlite_migrations
from agentmesh.kit.errors import Unavailable
from agentmesh.kit.migrations import Migration
from agentmesh.kit.settings import Settings
from agentmesh_llm.adapters import books_sql as sql
from agentmesh_llm.books.records import Entry, UsageQuery, UsageSum, VirtualKey

T = TypeVar("T")

_FOLDER = Path(__file__).parent / "migrations"
_PRAGMAS = ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = NORMAL", "PRAGMA busy_timeout = 5000")


def books_path(settings: Settings) -> Path:
    """Return the file, relative to the working directory."""
    return settings.data_dir / "llm.db"


class SqliteBooks:
    """See Books. The file is opened, and its schema brought up to date, when it is first needed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="llm-books")
        self._connection: sqlite3.Connection | None = None
        self._closed = False

    async def add_key(self, key: VirtualKey) -> None:
        """See Books."""
        await self._run(lambda db: _write(db, [(sql.ADD_KEY, [sql.key_row(key)])]))

    async def key_by_digest(self, sha256: str) -> VirtualKey | None:
        """See Books."""
        return await self._run(lambda db: _key(db, sql.KEY_BY_DIGEST, sha256))

    async def key_by_id(self, key_id: str) -> VirtualKey | None:
        """See Books."""
        return await self._run(lambda db: _key(db, sql.KEY_BY_ID, key_id))

    async def keys(self, tenant: str, limit: int) -> list[VirtualKey]:
        """See Books."""
        return await self._run(lambda db: [sql.to_key(row) for row in _rows(db, sql.KEYS, (tenant, limit))])

    async def revoke(self, tenant: str, key_id: str, now_ms: int) -> VirtualKey | None:
        """See Books."""

        def revoke(db: sqlite3.Connection) -> VirtualKey | None:
            _write(db, [(sql.REVOKE, [(tenant, key_id, now_ms)])])
            key = _key(db, sql.KEY_BY_ID, key_id)
            return key if key is not None and tenant in ("", key.tenant) else None

        return await self._run(revoke)

    async def add_usage(self, entries: Sequence[Entry]) -> None:
        """See Books."""
        days, tasks = sql.usage_rows(entries)
        await self._run(lambda db: _write(db, [(sql.ADD_USAGE, days), (sql.ADD_TASK_USAGE, tasks)]))

    async def usage(self, query: UsageQuery) -> list[UsageSum]:
        """See Books."""
        statement, parameters = sql.usage_query(query)
        return await self._run(lambda db: [sql.to_sum(query, row) for row in _rows(db, statement, parameters)])

    async def prune(self, days_before: str, tasks_before: str) -> None:
        """See Books."""
        statements = [(sql.PRUNE_DAYS, [(days_before,)]), (sql.PRUNE_TASKS, [(tasks_before,)])]
        await self._run(lambda db: _write(db, statements))

    async def aclose(self) -> None:
        """See Books."""
        if not self._closed:
            self._closed = True
            # In the thread, after what it is at: that may be opening the file.
            await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
            self._thread.shutdown(wait=False)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def run() -> T:
            try:
                if self._connection is None:
                    if self._closed:
                        raise Unavailable("the books are closed", reason="BOOKS_UNAVAILABLE")
                    self._connection = _opened(self._path)
                return work(self._connection)
            except (sqlite3.Error, OSError) as error:
                raise Unavailable("the books can't be reached", reason="BOOKS_UNAVAILABLE", retry_after_s=1) from error

        return await asyncio.get_running_loop().run_in_executor(self._thread, run)


def command(settings: Settings, action: str, dry_run: bool) -> list[dict[str, str]]:
    """Do what `agentmesh migrate` asks for the books."""
    connection = sqlite3.connect(books_path(settings), isolation_level=None)
    try:
        return sqlite_migrations.command(connection, shipped(), action, dry_run)
    finally:
        connection.close()


def shipped() -> list[Migration]:
    """Return the migrations that this release ships, in order."""
    return migrations.shipped(_FOLDER)


def _opened(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Keys are known by digest only, but who asked for how much is nobody else's, either.
    path.touch(mode=0o600)
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    for pragma in _PRAGMAS:
        connection.execute(pragma)
    sqlite_migrations.migrate(connection, shipped())
    return connection


def _rows(db: sqlite3.Connection, statement: str, parameters: Sequence[Any]) -> list[Any]:
    return db.execute(_numbered(statement), parameters).fetchall()


def _key(db: sqlite3.Connection, statement: str, parameter: str) -> VirtualKey | None:
    found = _rows(db, statement, (parameter,))
    return sql.to_key(found[0]) if found else None


def _write(db: sqlite3.Connection, statements: Sequence[tuple[str, Sequence[tuple[Any, ...]]]]) -> None:
    db.execute("BEGIN IMMEDIATE")
    try:
        for statement, rows in statements:
            db.executemany(_numbered(statement), rows)
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise


def _numbered(statement: str) -> str:
    return re.sub(r"\$(\d+)", r"?\1", statement)
