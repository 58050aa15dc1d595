"""Reads and locks the rows that a batch of mutations touches, always in the same order: leases, then tasks by id."""

from collections.abc import Iterable, Sequence
from typing import Any

from agentmesh_storage.adapters.postgres import statements as sql
from agentmesh_storage.adapters.postgres.pool import Connection
from agentmesh_storage.adapters.rows import to_task
from agentmesh_storage.adapters.wanted import Wanted
from agentmesh_storage.domain import Runner, Task
from agentmesh_storage.ledger import Ledger


async def load(db: Connection, ledger: Ledger, wanted: Wanted, *, requests: bool) -> None:
    """Fill a ledger; with `requests`, also with the tasks that have the request_ids of new ones."""
    if wanted.changing or wanted.names:
        every = [*(wanted.changing | wanted.leases)]
        load_runners(ledger, await db.fetch(sql.LOCK_RUNNERS, every, [*wanted.names]))
    elif wanted.leases:
        load_runners(ledger, await db.fetch(sql.SHARE_RUNNERS, [*wanted.leases]))
    if wanted.tasks:
        load_tasks(ledger, await db.fetch(sql.LOCK_TASKS, [*wanted.tasks], [*wanted.with_parent]))
    if wanted.requests and requests:
        for task in load_tasks(ledger, await db.fetch(sql.REQUESTS, *_columns(wanted.requests, 2))):
            ledger.by_request[task.tenant, task.request_id] = task
    if wanted.parent_steps:
        for task in load_tasks(ledger, await db.fetch(sql.PARENT_STEPS, *_columns(wanted.parent_steps, 2))):
            ledger.by_parent_step[task.parent_id, task.parent_step] = task
    if wanted.answers:
        for row in await db.fetch(sql.ANSWERED, *_columns(wanted.answers, 2)):
            ledger.answered.add((row[0], row[1]))


async def lock_missing(db: Connection, ledger: Ledger, ids: Iterable[str]) -> None:
    """Lock tasks that the ledger does not hold yet, with their parents."""
    missing = sorted({task_id for task_id in ids if task_id and task_id not in ledger.tasks})
    if missing:
        load_tasks(ledger, await db.fetch(sql.LOCK_TASKS, missing, missing))


def load_tasks(ledger: Ledger, rows: Iterable[Sequence[Any]]) -> list[Task]:
    """Take rows in; a task that the ledger holds already stays as it is there."""
    tasks = []
    for row in rows:
        known = ledger.tasks.get(row[0])
        if known is None:
            known = ledger.tasks[row[0]] = to_task(row)
        tasks.append(known)
    return tasks


def load_runners(ledger: Ledger, rows: Iterable[Sequence[Any]]) -> None:
    """Take leases in."""
    for row in rows:
        ledger.runners.setdefault(row[0], Runner(*row))


def _columns(rows: Iterable[Sequence[Any]], width: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]
