"""The SQLite backend of TaskStore: WAL, full sync, one writer thread and one reader thread."""

import asyncio
import json
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from agentmesh.kit.errors import MeshError, NotFound, Unavailable
from agentmesh.kit.migrations import check_all_applied
from agentmesh.kit.sql_echo import SqlEcho, connection_class
from agentmesh_storage.adapters.listing import list_query
from agentmesh_storage.adapters.rows import ARTIFACT_COLUMNS, HEAD_COLUMNS, TASK_COLUMNS, to_artifact, to_head, to_task
from agentmesh_storage.adapters.sqlite import schedules
from agentmesh_storage.adapters.sqlite.migrate import migrate, pending
from agentmesh_storage.adapters.sqlite.pruning import prune
from agentmesh_storage.adapters.sqlite.writer import Writer
from agentmesh_storage.domain import (
    Artifact,
    Chunk,
    Claimed,
    Head,
    Mutation,
    Offer,
    Outcome,
    State,
    Step,
    Task,
    TaskFilter,
)
from agentmesh_storage.ports import News, Page, Pruned, Retention, SchedulePage, check_kept
from agentmesh_storage.rules import Rules
from agentmesh_storage.schedules import Schedule

T = TypeVar("T")

_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA busy_timeout = 5000",
    "PRAGMA cache_size = -32768",
    "PRAGMA wal_autocheckpoint = 4000",
    "PRAGMA temp_store = MEMORY",
)
_WRITE_TIMEOUT_S = 30.0
_MAX_PAGE_BYTES = 2 * 1024 * 1024  # a page is one gRPC message
_ROW_BYTES = 512  # what a task's other fields take at most, about
_LAST_SEQUENCE = 2**62
_WAITS = "ready_ms IS NOT NULL AND due = 1"
_CHUNKS = (
    "SELECT attempt, first_sequence, count, events FROM event_chunks "
    "WHERE task_id = ? AND first_sequence >= coalesce("
    "(SELECT max(first_sequence) FROM event_chunks WHERE task_id = ? AND first_sequence <= ?), 0) "
    "ORDER BY first_sequence"
)


def connect(path: Path, echo: SqlEcho | None = None) -> sqlite3.Connection:
    """Open a database file with the settings that the promises need."""
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(
        path,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
        factory=connection_class(echo),
    )
    for pragma in _PRAGMAS:
        connection.execute(pragma)
    return connection


class SqliteTaskStore:
    """Keeps tasks in one SQLite file. Exactly one process may have it open; the caller holds the lock."""

    def __init__(self, path: Path, rules: Rules, *, create_tables: bool = True, echo: SqlEcho | None = None) -> None:
        self._write_thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite-writer")
        self._read_thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite-reader")
        connection = connect(path, echo)
        try:
            if create_tables:
                migrate(connection)
            else:
                check_all_applied(pending(connection))
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self._writer = Writer(connection, rules)
        self._reader = connect(path, echo)
        self._reader.execute("PRAGMA query_only = ON")

    async def commit(self, mutations: Sequence[Mutation], now_ms: int) -> tuple[list[Outcome | MeshError], News]:
        """See TaskStore."""
        return await self._write(self._writer.commit, mutations, now_ms)

    async def claim(self, offers: Sequence[Offer], now_ms: int) -> tuple[list[Claimed], News]:
        """See TaskStore."""
        return await self._write(self._writer.claim, offers, now_ms)

    async def sweep(self, now_ms: int, *, expire_leases: bool) -> News:
        """See TaskStore."""
        return await self._write(lambda: self._writer.sweep(now_ms, expire_leases=expire_leases))

    async def fire(self, now_ms: int) -> tuple[News, bool]:
        """See TaskStore."""
        return await self._write(self._writer.fire, now_ms)

    async def get_schedule(self, tenant: str, schedule_id: str) -> Schedule:
        """See TaskStore."""
        return await self._read(schedules.read_one, self._reader, tenant, schedule_id)

    async def list_schedules(self, tenant: str, page_size: int, after: str) -> SchedulePage:
        """See TaskStore."""
        return await self._read(schedules.read_page, self._reader, tenant, page_size, after)

    async def get_task(self, tenant: str, task_id: str) -> Task:
        """See TaskStore."""
        return await self._read(self._find_task, tenant, task_id)

    async def list_tasks(self, filter: TaskFilter) -> Page:
        """See TaskStore."""
        sql, parameters = list_query(filter)
        tasks, more = await self._read(self._read_page, sql, parameters, filter.page_size)
        last = tasks[-1] if more else None
        if last is None:
            return Page(tasks, "")
        return Page(tasks, f"{last.end_ms}.{last.id}" if filter.by_end else last.id)

    async def read_chunks(
        self, tenant: str, task_id: str, after_sequence: int, max_bytes: int
    ) -> tuple[list[Chunk], int, State]:
        """See TaskStore."""
        return await self._read(self._read_chunks, tenant, task_id, min(after_sequence, _LAST_SEQUENCE), max_bytes)

    async def read_steps(self, tenant: str, task_id: str, after: int, max_bytes: int) -> list[Step]:
        """See TaskStore."""
        return await self._read(self._read_steps, tenant, task_id, after, max_bytes)

    async def heads(self, task_ids: Sequence[str]) -> list[Head]:
        """See TaskStore."""
        sql = f"SELECT {HEAD_COLUMNS} FROM tasks WHERE id IN (SELECT value FROM json_each(?))"
        rows = await self._read(lambda: self._reader.execute(sql, (json.dumps(list(task_ids)),)).fetchall())
        return [to_head(row) for row in rows]

    async def backlog(self, limit: int) -> dict[str, int]:
        """See TaskStore."""
        counted = f"SELECT count(*) FROM (SELECT 1 FROM tasks WHERE tenant = t.tenant AND {_WAITS} LIMIT ?)"
        sql = f"SELECT tenant, ({counted}) FROM (SELECT DISTINCT tenant FROM tasks WHERE {_WAITS}) AS t"
        return dict(await self._read(lambda: self._reader.execute(sql, (limit,)).fetchall()))

    async def oldest_waiting_ms(self) -> int | None:
        """See TaskStore."""
        sql = f"SELECT min(ready_ms) FROM tasks WHERE {_WAITS}"
        ((oldest,),) = await self._read(lambda: self._reader.execute(sql).fetchall())
        return None if oldest is None else int(oldest)

    async def prune(self, now_ms: int, retention: Retention) -> Pruned:
        """See TaskStore."""
        return await self._write(prune, self._connection, now_ms, retention)

    async def list_agents(self) -> list[bytes]:
        """See TaskStore."""
        rows = await self._read(lambda: self._reader.execute("SELECT agent FROM agents ORDER BY name").fetchall())
        return [agent for (agent,) in rows]

    async def add_artifact(self, artifact: Artifact) -> None:
        """See TaskStore."""
        a = artifact
        values = (
            a.id,
            a.tenant,
            a.task_id,
            a.name,
            a.media_type,
            a.size_bytes,
            a.sha256,
            a.create_ms,
            a.visible,
        )
        await self._write(self._writer.execute, "INSERT INTO artifacts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)

    async def get_artifact(self, tenant: str, artifact_id: str) -> Artifact:
        """See TaskStore."""
        sql = f"SELECT {ARTIFACT_COLUMNS} FROM artifacts WHERE id = ? AND tenant = ?"
        row = await self._read(lambda: self._reader.execute(sql, (artifact_id, tenant)).fetchone())
        if row is None:
            raise NotFound("there is no such artifact", reason="ARTIFACT_NOT_FOUND")
        return to_artifact(row)

    async def list_artifacts(self, tenant: str, task_id: str, page_size: int, after: str) -> list[Artifact]:
        """See TaskStore."""
        sql = (
            f"SELECT {ARTIFACT_COLUMNS} FROM artifacts WHERE tenant = ? AND visible = 1 "
            f"{'AND task_id = ?' if task_id else ''} {'AND id < ?' if after else ''} ORDER BY id DESC LIMIT ?"
        )
        parameters = (tenant, *filter(None, (task_id, after)), page_size)
        return [to_artifact(r) for r in await self._read(lambda: self._reader.execute(sql, parameters).fetchall())]

    async def delete_artifact(self, tenant: str, artifact_id: str) -> bool:
        """See TaskStore."""
        sql = "DELETE FROM artifacts WHERE id = ? AND tenant = ? RETURNING id"
        return bool(await self._write(self._writer.execute, sql, (artifact_id, tenant)))

    async def abandoned_artifacts(self, before_ms: int) -> list[str]:
        """See TaskStore."""
        sql = "DELETE FROM artifacts WHERE visible = 0 AND create_ms < ? RETURNING id"
        return [str(row[0]) for row in await self._write(self._writer.execute, sql, (before_ms,))]

    async def ping(self) -> bool:
        """See TaskStore."""
        return bool(await self._read(lambda: self._reader.execute("SELECT 1").fetchone()))

    async def aclose(self) -> None:
        """See TaskStore."""
        for thread in (self._write_thread, self._read_thread):
            await asyncio.to_thread(thread.shutdown)
        self._reader.close()
        self._connection.close()

    async def _write(self, function: Callable[..., T], *arguments: Any) -> T:
        work = asyncio.get_running_loop().run_in_executor(self._write_thread, function, *arguments)
        try:
            # A transaction that was begun is finished even if the caller leaves.
            async with asyncio.timeout(_WRITE_TIMEOUT_S):
                return await asyncio.shield(work)
        except (sqlite3.OperationalError, TimeoutError) as error:
            raise Unavailable(
                "storage can't write: is the disk full or read-only?",
                reason="STORAGE_WRITE_FAILED",
                retry_after_s=1,
            ) from error

    async def _read(self, function: Callable[..., T], *arguments: Any) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._read_thread, function, *arguments)
        except sqlite3.OperationalError as error:
            raise Unavailable("storage can't read", reason="STORAGE_READ_FAILED", retry_after_s=1) from error

    def _read_page(self, sql: str, parameters: list[Any], page_size: int) -> tuple[list[Task], bool]:
        tasks: list[Task] = []
        size = 0
        for row in self._reader.execute(sql, parameters):
            task = to_task(row)
            size += len(task.spec) + len(task.result) + len(task.error) + _ROW_BYTES
            if len(tasks) >= page_size or (tasks and size > _MAX_PAGE_BYTES):
                return tasks, True
            tasks.append(task)
        return tasks, False

    def _find_task(self, tenant: str, task_id: str) -> Task:
        sql = f"SELECT {TASK_COLUMNS} FROM tasks WHERE id = ? AND tenant = ?"
        row = self._reader.execute(sql, (task_id, tenant)).fetchone()
        if row is None:
            raise NotFound("there is no such task", reason="TASK_NOT_FOUND")
        return to_task(row)

    def _read_chunks(self, tenant: str, task_id: str, after: int, max_bytes: int) -> tuple[list[Chunk], int, State]:
        self._reader.execute("BEGIN")
        try:
            task = self._find_task(tenant, task_id)
            check_kept(after, task.pruned_sequence)
            chunks: list[Chunk] = []
            size = 0
            for attempt, first, count, events in self._reader.execute(_CHUNKS, (task_id, task_id, after + 1)):
                if first + count <= after + 1:
                    continue
                chunks.append(Chunk(task_id, attempt, first, count, events))
                size += len(events)
                if size >= max_bytes:
                    break
            return chunks, task.last_sequence, task.state
        finally:
            self._reader.execute("COMMIT")

    def _read_steps(self, tenant: str, task_id: str, after: int, max_bytes: int) -> list[Step]:
        self._find_task(tenant, task_id)
        sql = "SELECT key, sequence, record FROM steps WHERE task_id = ? AND sequence > ? ORDER BY sequence"
        steps: list[Step] = []
        size = 0
        for key, sequence, record in self._reader.execute(sql, (task_id, after)):
            size += len(record)
            if steps and size > max_bytes and sequence != steps[-1].sequence:
                break
            steps.append(Step(task_id, key, sequence, record))
        return steps
