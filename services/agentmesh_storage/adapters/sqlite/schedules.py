"""Schedules in the SQLite file; what writes runs on the one writer thread, inside the caller's transaction."""

import json
import sqlite3
from collections.abc import Sequence

from agentmesh.kit.errors import NotFound
from agentmesh_storage import firing
from agentmesh_storage.adapters.rows import TASK_COLUMNS, to_tasks
from agentmesh_storage.adapters.schedule_rows import (
    BATCH,
    COLUMNS,
    MOVING,
    SCHEDULE_COLUMNS,
    insert_values,
    moving_values,
    to_page,
    to_schedule,
)
from agentmesh_storage.domain import Mutation, Task
from agentmesh_storage.ledger import Ledger
from agentmesh_storage.ports import SchedulePage
from agentmesh_storage.schedules import (
    MAX_SCHEDULES,
    SCHEDULE_CHANGES,
    CreateSchedule,
    DeleteSchedule,
    FireSchedule,
    Overlap,
    PauseSchedule,
    Schedule,
)

_BY_ID = f"SELECT {SCHEDULE_COLUMNS} FROM schedules WHERE id = ?"
_BY_REQUEST = f"SELECT {SCHEDULE_COLUMNS} FROM schedules WHERE tenant = ? AND request_id = ? AND request_id <> ''"
_COUNT = "SELECT count(*) FROM (SELECT 1 FROM schedules WHERE tenant = ? LIMIT ?)"
_UNFINISHED = "schedule_id = {} AND schedule_id <> '' AND end_ms IS NULL"
_DUE = f"""
SELECT {SCHEDULE_COLUMNS} FROM schedules WHERE next_ms IS NOT NULL AND next_ms <= :now
UNION
SELECT {SCHEDULE_COLUMNS} FROM schedules WHERE waiting_ms IS NOT NULL
  AND NOT EXISTS (SELECT 1 FROM tasks WHERE {_UNFINISHED.format("schedules.id")})
LIMIT {BATCH}"""
_TASKS = f"SELECT {TASK_COLUMNS} FROM tasks WHERE {_UNFINISHED.format('?')} ORDER BY id LIMIT ?"
_TASKS_BY_ID = f"SELECT {TASK_COLUMNS} FROM tasks WHERE id IN (SELECT value FROM json_each(?))"
_TASK_BY_REQUEST = (
    f"SELECT {TASK_COLUMNS} FROM tasks WHERE tenant = ? AND request_id = ? AND request_id <> '' AND request_open = 1"
)
_INSERT = f"INSERT INTO schedules ({SCHEDULE_COLUMNS}) VALUES ({', '.join('?' * len(COLUMNS))})"
_UPDATE = f"UPDATE schedules SET {', '.join(f'{column} = ?' for column in MOVING)} WHERE id = ?"
_MAX_CANCELED = 1000


def load(db: sqlite3.Connection, ledger: Ledger, mutations: Sequence[Mutation]) -> None:
    """Fill a ledger with the schedules that mutations touch."""
    for mutation in [m for m in mutations if isinstance(m.change, SCHEDULE_CHANGES)]:
        change = mutation.change
        if isinstance(change, CreateSchedule):
            tenant, request_id = change.schedule.tenant, change.schedule.request_id
            for row in db.execute(_BY_REQUEST, (tenant, request_id)):
                twin = to_schedule(row)
                ledger.schedule_requests[tenant, request_id] = ledger.schedules.setdefault(twin.id, twin)
            ledger.schedule_counts[tenant] = db.execute(_COUNT, (tenant, MAX_SCHEDULES)).fetchone()[0]
        elif isinstance(change, DeleteSchedule | PauseSchedule | FireSchedule):
            for row in db.execute(_BY_ID, (change.schedule_id,)):
                ledger.schedules.setdefault(row[0], to_schedule(row))
            request_id = firing.request_id_of(change) if isinstance(change, FireSchedule) else ""
            for task in to_tasks(db.execute(_TASK_BY_REQUEST, (mutation.tenant, request_id))):
                ledger.by_request[mutation.tenant, request_id] = ledger.tasks.setdefault(task.id, task)


def due(db: sqlite3.Connection, now_ms: int) -> list[Schedule]:
    """Return schedules that have something to do, at most BATCH."""
    return [to_schedule(row) for row in db.execute(_DUE, {"now": now_ms}).fetchall()]


def fire(db: sqlite3.Connection, ledger: Ledger, found: Sequence[Schedule]) -> None:
    """Make the tasks of what is due."""
    taken = [(schedule, firing.take(ledger, schedule, _unfinished(db, ledger, schedule))) for schedule in found]
    ids = [task_id for _, task_ids in taken for task_id in task_ids]
    for task in to_tasks(db.execute(_TASKS_BY_ID, (json.dumps(ids),))):
        ledger.tasks.setdefault(task.id, task)
    for schedule, task_ids in taken:
        firing.make(ledger, schedule, task_ids)


def write(db: sqlite3.Connection, ledger: Ledger) -> None:
    """Write what a ledger did to schedules."""
    created, changed = ledger.created_schedules, ledger.changed_schedules
    if created:
        db.executemany(_INSERT, [insert_values(schedule) for schedule in created.values()])
    moved = [(*moving_values(schedule), schedule.id) for schedule in changed.values() if schedule.id not in created]
    if moved:
        db.executemany(_UPDATE, moved)
    if ledger.deleted_schedules:
        db.executemany("DELETE FROM schedules WHERE id = ?", [(gone,) for gone in ledger.deleted_schedules])


def read_one(db: sqlite3.Connection, tenant: str, schedule_id: str) -> Schedule:
    """Return a schedule or raise NotFound."""
    row = db.execute(f"{_BY_ID} AND tenant = ?", (schedule_id, tenant)).fetchone()
    if row is None:
        raise NotFound("there is no such schedule", reason="SCHEDULE_NOT_FOUND")
    return to_schedule(row)


def read_page(db: sqlite3.Connection, tenant: str, page_size: int, after: str) -> SchedulePage:
    """Return a page of schedules, newest first."""
    sql = (
        f"SELECT {SCHEDULE_COLUMNS} FROM schedules WHERE tenant = ? {'AND id < ?' if after else ''} "
        "ORDER BY id DESC LIMIT ?"
    )
    return to_page(db.execute(sql, (tenant, *filter(None, (after,)), page_size + 1)), page_size)


def _unfinished(db: sqlite3.Connection, ledger: Ledger, schedule: Schedule) -> list[Task]:
    if schedule.overlap is Overlap.ALLOW:
        return []
    limit = _MAX_CANCELED if schedule.overlap is Overlap.CANCEL else 1
    tasks = to_tasks(db.execute(_TASKS, (schedule.id, limit)))
    return [ledger.tasks.setdefault(task.id, task) for task in tasks]
