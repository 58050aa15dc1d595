"""Schedules as rows: one order of columns for reading and writing, over every backend."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from agentmesh_storage.ports import SchedulePage
from agentmesh_storage.schedules import Overlap, Schedule

_FIXED = (
    "id", "tenant", "spec", "task_spec", "agent", "request_id", "request_hash", "cron", "interval_ms", "time_zone",
    "overlap", "catch_up_ms", "start_ms", "end_ms", "priority", "timeout_ms", "queue_timeout_ms", "context_id",
    "labels", "create_ms",
)  # fmt: skip
MOVING = (
    "paused", "next_ms", "waiting_ms", "last_ms", "last_task_id", "fired", "skipped", "missed",
)  # fmt: skip
COLUMNS = _FIXED + MOVING
SCHEDULE_COLUMNS = ", ".join(COLUMNS)
BATCH = 50
"""Schedules whose firings are made in one transaction."""

_OVERLAP = COLUMNS.index("overlap")
_LABELS = COLUMNS.index("labels")
_PAUSED = COLUMNS.index("paused")
_MAX_PAGE_BYTES = 2 * 1024 * 1024  # a page is one gRPC message
_ROW_BYTES = 512  # what the other fields take at most, about


def to_schedule(row: Sequence[Any]) -> Schedule:
    """Read a schedule from a row of SCHEDULE_COLUMNS."""
    values = list(row)
    values[_OVERLAP], values[_PAUSED] = Overlap(row[_OVERLAP]), bool(row[_PAUSED])
    values[_LABELS] = json.loads(row[_LABELS])
    return Schedule(*values)


def insert_values(s: Schedule) -> tuple[Any, ...]:
    """Return a schedule's values in the order of COLUMNS."""
    return (
        s.id, s.tenant, s.spec, s.task_spec, s.agent, s.request_id, s.request_hash, s.cron, s.interval_ms, s.time_zone,
        int(s.overlap), s.catch_up_ms, s.start_ms, s.end_ms, s.priority, s.timeout_ms, s.queue_timeout_ms, s.context_id,
        json.dumps(s.labels), s.create_ms, *moving_values(s),
    )  # fmt: skip


def moving_values(s: Schedule) -> tuple[Any, ...]:
    """Return the values that change, in the order of MOVING."""
    return (s.paused, s.next_ms, s.waiting_ms, s.last_ms, s.last_task_id, s.fired, s.skipped, s.missed)


def to_page(rows: Iterable[Sequence[Any]], page_size: int) -> SchedulePage:
    """Read a page from rows that may be more than it holds."""
    found: list[Schedule] = []
    size = 0
    for row in rows:
        schedule = to_schedule(row)
        size += len(schedule.spec) + len(schedule.task_spec) + _ROW_BYTES
        if len(found) >= page_size or (found and size > _MAX_PAGE_BYTES):
            return SchedulePage(found, found[-1].id)
        found.append(schedule)
    return SchedulePage(found, "")
