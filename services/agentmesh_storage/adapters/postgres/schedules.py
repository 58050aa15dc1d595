"""Schedules in PostgreSQL. Their rows are locked before any other, and a locked one is somebody else's to fire."""

from collections.abc import Sequence

from agentmesh.kit.errors import NotFound
from agentmesh_storage import firing
from agentmesh_storage.adapters.postgres.loading import load_tasks, lock_missing
from agentmesh_storage.adapters.postgres.pool import Connection, Pool
from agentmesh_storage.adapters.rows import TASK_COLUMNS
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

_ALL = f"SELECT {SCHEDULE_COLUMNS} FROM schedules"
_LOCK = f"{_ALL} WHERE id = ANY($1::text[]) ORDER BY id FOR UPDATE"
_BY_REQUEST = f"{_ALL} WHERE tenant = $1 AND request_id = $2 AND request_id <> ''"
_COUNT = "SELECT count(*) FROM (SELECT 1 FROM schedules WHERE tenant = $1 LIMIT $2) AS counted"
_UNFINISHED = "schedule_id = {} AND schedule_id <> '' AND end_ms IS NULL"
_DUE = f"""
SELECT id FROM schedules WHERE next_ms IS NOT NULL AND next_ms <= $1
UNION ALL
SELECT id FROM schedules WHERE waiting_ms IS NOT NULL
  AND NOT EXISTS (SELECT 1 FROM tasks WHERE {_UNFINISHED.format("schedules.id")})"""
_ANY_DUE = f"SELECT EXISTS ({_DUE})"
_LOCK_DUE = f"{_ALL} WHERE id IN ({_DUE}) ORDER BY next_ms, id LIMIT {BATCH} FOR UPDATE SKIP LOCKED"
_TASKS = f"SELECT {TASK_COLUMNS} FROM tasks"
_ONE_UNFINISHED = f"{_TASKS} WHERE {_UNFINISHED.format('$1')} LIMIT 1"
_LOCK_UNFINISHED = f"{_TASKS} WHERE {_UNFINISHED.format('$1')} ORDER BY id LIMIT 1000 FOR NO KEY UPDATE"
_TASKS_BY_ID = f"{_TASKS} WHERE id = ANY($1::text[])"
_TASK_BY_REQUEST = f"{_TASKS} WHERE tenant = $1 AND request_id = $2 AND request_id <> '' AND request_open"
_INSERT = f"""
INSERT INTO schedules ({SCHEDULE_COLUMNS}) VALUES ({", ".join(f"${number + 1}" for number in range(len(COLUMNS)))})"""
_UPDATE = f"""
UPDATE schedules SET {", ".join(f"{column} = ${number + 2}" for number, column in enumerate(MOVING))} WHERE id = $1"""


async def load(db: Connection, ledger: Ledger, mutations: Sequence[Mutation]) -> None:
    """Fill a ledger with the schedules that mutations touch, locked."""
    mutations = [m for m in mutations if isinstance(m.change, SCHEDULE_CHANGES)]
    changes = [m.change for m in mutations if isinstance(m.change, DeleteSchedule | PauseSchedule | FireSchedule)]
    ids = {change.schedule_id for change in changes}
    if ids:
        for row in await db.fetch(_LOCK, sorted(ids)):
            ledger.schedules[row[0]] = to_schedule(row)
    for mutation in mutations:
        change = mutation.change
        if isinstance(change, CreateSchedule):
            tenant, request_id = change.schedule.tenant, change.schedule.request_id
            for row in await db.fetch(_BY_REQUEST, tenant, request_id):
                ledger.schedule_requests[tenant, request_id] = ledger.schedules.setdefault(row[0], to_schedule(row))
            ledger.schedule_counts[tenant] = await db.fetchval(_COUNT, tenant, MAX_SCHEDULES)
        elif isinstance(change, FireSchedule) and change.request_id:
            key = (mutation.tenant, firing.request_id_of(change))
            for task in load_tasks(ledger, await db.fetch(_TASK_BY_REQUEST, *key)):
                ledger.by_request[key] = task


async def any_due(pool: Pool, now_ms: int) -> bool:
    """Say whether a schedule has something to do."""
    ((found,),) = await pool.fetch(_ANY_DUE, now_ms)
    return bool(found)


async def fire(db: Connection, ledger: Ledger) -> bool:
    """Make the tasks of what is due and nobody else is at; say whether there may be more."""
    found = [to_schedule(row) for row in await db.fetch(_LOCK_DUE, ledger.now_ms)]
    taken: dict[str, list[str]] = {}
    for schedule in found:
        taken[schedule.id] = firing.take(ledger, schedule, await _unfinished(db, ledger, schedule))
    ids = [task_id for task_ids in taken.values() for task_id in task_ids]
    if ids:
        load_tasks(ledger, await db.fetch(_TASKS_BY_ID, ids))
    for schedule in found:
        firing.make(ledger, schedule, taken[schedule.id])
    return len(found) >= BATCH


async def write(db: Connection, ledger: Ledger) -> None:
    """Write what a ledger did to schedules."""
    created, changed = ledger.created_schedules, ledger.changed_schedules
    if created:
        await db.executemany(_INSERT, [insert_values(schedule) for schedule in created.values()])
    moved = [(schedule.id, *moving_values(schedule)) for schedule in changed.values() if schedule.id not in created]
    if moved:
        await db.executemany(_UPDATE, moved)
    if ledger.deleted_schedules:
        await db.execute("DELETE FROM schedules WHERE id = ANY($1::text[])", ledger.deleted_schedules)


async def read_one(pool: Pool, tenant: str, schedule_id: str) -> Schedule:
    """Return a schedule or raise NotFound."""
    rows = await pool.fetch(f"{_ALL} WHERE id = $1 AND tenant = $2", schedule_id, tenant)
    if not rows:
        raise NotFound("there is no such schedule", reason="SCHEDULE_NOT_FOUND")
    return to_schedule(rows[0])


async def read_page(pool: Pool, tenant: str, page_size: int, after: str) -> SchedulePage:
    """Return a page of schedules, newest first."""
    where = "WHERE tenant = $1 AND ($2 = '' OR id < $2)"
    rows = await pool.fetch(f"{_ALL} {where} ORDER BY id DESC LIMIT $3", tenant, after, page_size + 1)
    return to_page(rows, page_size)


async def _unfinished(db: Connection, ledger: Ledger, schedule: Schedule) -> list[Task]:
    if schedule.overlap is Overlap.ALLOW:
        return []
    if schedule.overlap is not Overlap.CANCEL:
        return load_tasks(ledger, await db.fetch(_ONE_UNFINISHED, schedule.id))
    tasks = load_tasks(ledger, await db.fetch(_LOCK_UNFINISHED, schedule.id))
    await lock_missing(db, ledger, {task.parent_id for task in tasks})
    return tasks
