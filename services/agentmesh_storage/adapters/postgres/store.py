"""The PostgreSQL backend of TaskStore."""

import re
from collections.abc import Sequence
from typing import Any

from agentmesh.kit.errors import MeshError, NotFound
from agentmesh.kit.settings import Database
from agentmesh_storage.adapters.listing import list_query
from agentmesh_storage.adapters.postgres import schedules
from agentmesh_storage.adapters.postgres import statements as sql
from agentmesh_storage.adapters.postgres.migrate import prepare
from agentmesh_storage.adapters.postgres.pool import Pool, open_pool
from agentmesh_storage.adapters.postgres.pruning import prune
from agentmesh_storage.adapters.postgres.writer import Writer
from agentmesh_storage.adapters.rows import ARTIFACT_COLUMNS, HEAD_COLUMNS, to_artifact, to_head, to_task
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

_MAX_PAGE_BYTES = 2 * 1024 * 1024  # a page is one gRPC message
_ROW_BYTES = 512  # what a task's other fields take at most, about
_LAST_SEQUENCE = 2**62
_ROWS_AT_ONCE = 64
# The head and the chunks are of one statement, so that they are of one moment.
_CHUNKS = """
WITH task AS (SELECT last_sequence, state, pruned_sequence FROM tasks WHERE id = $1 AND tenant = $2)
SELECT task.*, c.attempt, c.first_sequence, c.count, c.events FROM task LEFT JOIN LATERAL (
  SELECT * FROM event_chunks WHERE task_id = $1 AND first_sequence >= coalesce(
    (SELECT max(first_sequence) FROM event_chunks WHERE task_id = $1 AND first_sequence <= $3), 0)
  ORDER BY first_sequence LIMIT $4
) AS c ON true ORDER BY c.first_sequence"""
_STEPS = """
SELECT key, sequence, record FROM steps WHERE task_id = $1 AND sequence > $2 ORDER BY sequence LIMIT $3"""


class PostgresTaskStore:
    """Keeps tasks in PostgreSQL; any number of processes may. Made by `open_store`."""

    def __init__(self, pool: Pool, rules: Rules) -> None:
        self.pool = pool
        self._writer = Writer(pool, rules)

    async def commit(self, mutations: Sequence[Mutation], now_ms: int) -> tuple[list[Outcome | MeshError], News]:
        """See TaskStore."""
        return await self._writer.commit(mutations, now_ms)

    async def claim(self, offers: Sequence[Offer], now_ms: int) -> tuple[list[Claimed], News]:
        """See TaskStore."""
        return await self._writer.claim(offers, now_ms)

    async def sweep(self, now_ms: int, *, expire_leases: bool) -> News:
        """See TaskStore."""
        return await self._writer.sweep(now_ms, expire_leases=expire_leases)

    async def fire(self, now_ms: int) -> tuple[News, bool]:
        """See TaskStore."""
        return await self._writer.fire(now_ms)

    async def get_schedule(self, tenant: str, schedule_id: str) -> Schedule:
        """See TaskStore."""
        return await schedules.read_one(self.pool, tenant, schedule_id)

    async def list_schedules(self, tenant: str, page_size: int, after: str) -> SchedulePage:
        """See TaskStore."""
        return await schedules.read_page(self.pool, tenant, page_size, after)

    async def prune(self, now_ms: int, retention: Retention) -> Pruned:
        """See TaskStore."""
        return await prune(self.pool, now_ms, retention)

    async def backlog(self, limit: int) -> dict[str, int]:
        """See TaskStore."""
        return {row[0]: row[1] for row in await self.pool.fetch(sql.BACKLOG, limit)}

    async def oldest_waiting_ms(self) -> int | None:
        """See TaskStore."""
        ((oldest,),) = await self.pool.fetch(f"SELECT min(ready_ms) FROM tasks WHERE {sql.IS_DUE}")
        return None if oldest is None else int(oldest)

    async def heads(self, task_ids: Sequence[str]) -> list[Head]:
        """See TaskStore."""
        query = f"SELECT {HEAD_COLUMNS} FROM tasks WHERE id = ANY($1::text[])"
        return [to_head(row) for row in await self.pool.fetch(query, list(task_ids))]

    async def get_task(self, tenant: str, task_id: str) -> Task:
        """See TaskStore."""
        rows = await self.pool.fetch(sql.BY_ID, task_id, tenant)
        if not rows:
            raise _no_task()
        return to_task(rows[0])

    async def list_tasks(self, filter: TaskFilter) -> Page:
        """See TaskStore."""
        query, parameters = list_query(filter)
        tasks: list[Task] = []
        size = 0
        for row in await self.pool.fetch(_numbered(query), *parameters):
            task = to_task(row)
            size += len(task.spec) + len(task.result) + len(task.error) + _ROW_BYTES
            if len(tasks) >= filter.page_size or (tasks and size > _MAX_PAGE_BYTES):
                last = tasks[-1]
                return Page(tasks, f"{last.end_ms}.{last.id}" if filter.by_end else last.id)
            tasks.append(task)
        return Page(tasks, "")

    async def read_chunks(
        self, tenant: str, task_id: str, after_sequence: int, max_bytes: int
    ) -> tuple[list[Chunk], int, State]:
        """See TaskStore."""
        after = min(after_sequence, _LAST_SEQUENCE)
        chunks: list[Chunk] = []
        size = 0
        while True:
            rows = await self.pool.fetch(_CHUNKS, task_id, tenant, after + 1, _ROWS_AT_ONCE)
            if not rows:
                raise _no_task()
            last, state, pruned = rows[0][:3]
            check_kept(after, pruned)
            for row in rows:
                attempt, first, count, events = row[3:7]
                if first is None or first + count <= after + 1:
                    continue
                chunks.append(Chunk(task_id, attempt, first, count, events))
                after = first + count - 1
                size += len(events)
                if size >= max_bytes:
                    return chunks, last, State(state)
            if len(rows) < _ROWS_AT_ONCE:
                return chunks, last, State(state)

    async def read_steps(self, tenant: str, task_id: str, after: int, max_bytes: int) -> list[Step]:
        """See TaskStore."""
        await self.get_task(tenant, task_id)
        steps: list[Step] = []
        size = 0
        while True:
            rows = await self.pool.fetch(_STEPS, task_id, after, _ROWS_AT_ONCE)
            for key, sequence, record in rows:
                size += len(record)
                if steps and size > max_bytes and sequence != steps[-1].sequence:
                    return steps
                steps.append(Step(task_id, key, sequence, record))
            if len(rows) < _ROWS_AT_ONCE:
                return steps
            # Several steps may share a sequence: the next read begins with the last one's again.
            after = steps[-1].sequence - 1
            while steps and steps[-1].sequence > after:
                size -= len(steps.pop().record)

    async def list_agents(self) -> list[bytes]:
        """See TaskStore."""
        return [agent for (agent,) in await self.pool.fetch("SELECT agent FROM agents ORDER BY name")]

    async def add_artifact(self, artifact: Artifact) -> None:
        """See TaskStore."""
        a = artifact
        query = f"INSERT INTO artifacts ({ARTIFACT_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
        values = (a.id, a.tenant, a.task_id, a.name, a.media_type, a.size_bytes, a.sha256, a.create_ms, a.visible)
        await self.pool.fetch(query, *values)

    async def get_artifact(self, tenant: str, artifact_id: str) -> Artifact:
        """See TaskStore."""
        query = f"SELECT {ARTIFACT_COLUMNS} FROM artifacts WHERE id = $1 AND tenant = $2"
        rows = await self.pool.fetch(query, artifact_id, tenant)
        if not rows:
            raise NotFound("there is no such artifact", reason="ARTIFACT_NOT_FOUND")
        return to_artifact(rows[0])

    async def list_artifacts(self, tenant: str, task_id: str, page_size: int, after: str) -> list[Artifact]:
        """See TaskStore."""
        query = (
            f"SELECT {ARTIFACT_COLUMNS} FROM artifacts WHERE tenant = ? AND visible "
            f"{'AND task_id = ?' if task_id else ''} {'AND id < ?' if after else ''} ORDER BY id DESC LIMIT ?"
        )
        parameters = (tenant, *filter(None, (task_id, after)), page_size)
        return [to_artifact(row) for row in await self.pool.fetch(_numbered(query), *parameters)]

    async def delete_artifact(self, tenant: str, artifact_id: str) -> bool:
        """See TaskStore."""
        query = "DELETE FROM artifacts WHERE id = $1 AND tenant = $2 RETURNING id"
        return bool(await self.pool.fetch(query, artifact_id, tenant))

    async def abandoned_artifacts(self, before_ms: int) -> list[str]:
        """See TaskStore."""
        query = "DELETE FROM artifacts WHERE NOT visible AND create_ms < $1 RETURNING id"
        return [artifact_id for (artifact_id,) in await self.pool.fetch(query, before_ms)]

    async def ping(self) -> bool:
        """See TaskStore."""
        return bool(await self.pool.fetch("SELECT 1"))

    async def aclose(self) -> None:
        """See TaskStore."""
        await self.pool.aclose()


async def open_store(settings: Database, rules: Rules, *, replan_s: float = 1.0) -> PostgresTaskStore:
    """Connect, and apply missing migrations where that is allowed; raise WrongState if it can't be used."""
    assert settings.url is not None
    pool = await open_pool(settings, replan_s=replan_s)
    try:
        await prepare(settings.url.get_secret_value(), create_tables=settings.create_tables)
    except BaseException:
        await pool.aclose()
        raise
    return PostgresTaskStore(pool, rules)


def _no_task() -> NotFound:
    return NotFound("there is no such task", reason="TASK_NOT_FOUND")


def _numbered(query: str) -> str:
    """Turn `?` into PostgreSQL's $1, $2 …"""
    numbers: Any = iter(range(1, 100))
    return re.sub(r"\?", lambda _: f"${next(numbers)}", query)
