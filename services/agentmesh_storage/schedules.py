"""The rules of schedules, pure: which firings are due, which of them make a task, and when the next one is.

A firing is named by the time at which it was due, never by the time at which somebody looked: whoever asks, and however
often, finds each due time once.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import islice, takewhile

from agentmesh.kit.ids import id_of, shard_of
from agentmesh.kit.recurrence import Recurrence

MAX_SCHEDULES = 10_000
"""Schedules that a tenant may have."""
MAX_FIRINGS = 100
"""Firings of one schedule in one transaction; the rest of them is made in the next ones."""
ON_TIME_MS = 5_000
"""A firing that is not later than this is in time, whatever the schedule says of late ones."""
_MAX_COUNTED = 1_000  # missed times of an expression, which must be found one by one


class Overlap(IntEnum):
    """What happens while a task of an earlier firing has not ended; the numbers are those of the contract."""

    SKIP = 1
    ALLOW = 2
    QUEUE = 3
    CANCEL = 4


@dataclass(slots=True)
class Schedule:
    """A schedule's row. `spec` is its serialised ScheduleSpec without the task, `task_spec` the task's.

    `next_ms` is absent if it never fires by itself any more, also while it is paused. `waiting_ms` is when the firing
    was due that waits for the end of an earlier task.
    """

    id: str
    tenant: str
    spec: bytes
    task_spec: bytes
    agent: str
    request_id: str = ""
    request_hash: bytes = b""
    cron: str = ""
    interval_ms: int = 0
    time_zone: str = ""
    overlap: Overlap = Overlap.SKIP
    catch_up_ms: int = 0
    start_ms: int | None = None
    end_ms: int | None = None
    priority: int = 5
    timeout_ms: int = 0
    queue_timeout_ms: int = 0
    context_id: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    create_ms: int = 0
    paused: bool = False
    next_ms: int | None = None
    waiting_ms: int | None = None
    last_ms: int | None = None
    last_task_id: str = ""
    fired: int = 0
    skipped: int = 0
    missed: int = 0


@dataclass(slots=True)
class CreateSchedule:
    """A new schedule."""

    schedule: Schedule


@dataclass(slots=True)
class DeleteSchedule:
    """A schedule ends; its tasks stay."""

    schedule_id: str


@dataclass(slots=True)
class PauseSchedule:
    """A schedule pauses, or goes on."""

    schedule_id: str
    resume: bool = False


@dataclass(slots=True)
class FireSchedule:
    """A schedule's task is made now; an empty `request_id` makes one each time."""

    schedule_id: str
    task_id: str
    request_id: str = ""


ScheduleChange = CreateSchedule | DeleteSchedule | PauseSchedule | FireSchedule
SCHEDULE_CHANGES = (CreateSchedule, DeleteSchedule, PauseSchedule, FireSchedule)
"""The same, for a check that costs little on the hot path."""


def begin(schedule: Schedule, now_ms: int) -> None:
    """Let a schedule fire from now on; what was due before is none of its firings."""
    first_ms = now_ms if schedule.start_ms is None else max(now_ms, schedule.start_ms - 1)
    schedule.next_ms = _in_time(schedule, _times(schedule, first_ms))


def pause(schedule: Schedule) -> None:
    """Let a schedule fire no more; a firing that waits is given up."""
    schedule.paused = True
    schedule.next_ms = None
    if schedule.waiting_ms is not None:
        schedule.waiting_ms = None
        schedule.skipped += 1


def advance(schedule: Schedule, now_ms: int, *, busy: bool) -> list[int]:
    """Take what is due and return the due times that make a task, in order; count the others.

    `busy` says that a task of an earlier firing has not ended. At most MAX_FIRINGS times are taken; `next_ms` is then
    still due, and they go on with the next call. Raises RecurrenceFault.
    """
    if schedule.next_ms is not None and schedule.next_ms <= now_ms:
        _pass_missed(schedule, now_ms)
    makes: list[int] = []
    if schedule.waiting_ms is not None and not busy:
        makes.append(schedule.waiting_ms)
        schedule.waiting_ms = None
    if schedule.next_ms is None or schedule.next_ms > now_ms:
        return makes
    times = _times(schedule, schedule.next_ms - 1)
    due = _in_time(schedule, times)
    taken = 0
    while due is not None and due <= now_ms and taken < MAX_FIRINGS:
        _take(schedule, due, makes, busy=busy)
        taken += 1
        due = _in_time(schedule, times)
    schedule.next_ms = due
    if schedule.overlap is Overlap.CANCEL and len(makes) > 1:
        # Each would cancel the one before it at once.
        schedule.skipped += len(makes) - 1
        del makes[:-1]
    return makes


def firing_id(schedule_id: str, due_ms: int) -> str:
    """Return the id of the task that a firing makes: a UUIDv7 of the time it was due, the same whoever computes it."""
    digest = hashlib.blake2b(f"{schedule_id} {due_ms}".encode(), digest_size=10).digest()
    return id_of(due_ms, digest, shard_of(schedule_id))


def _take(schedule: Schedule, due: int, makes: list[int], *, busy: bool) -> None:
    schedule.last_ms = due
    overlaps = busy or bool(makes)
    if not overlaps or schedule.overlap in (Overlap.ALLOW, Overlap.CANCEL):
        makes.append(due)
    elif schedule.overlap is Overlap.QUEUE and schedule.waiting_ms is None:
        schedule.waiting_ms = due
    else:
        schedule.skipped += 1


def _pass_missed(schedule: Schedule, now_ms: int) -> None:
    """Count what is too old to be made up for, and go on with the first time that is not."""
    assert schedule.next_ms is not None
    oldest_ms = now_ms - max(schedule.catch_up_ms, ON_TIME_MS)
    last_ms = oldest_ms - 1 if schedule.end_ms is None else min(oldest_ms - 1, schedule.end_ms)
    times = _times(schedule, schedule.next_ms - 1)
    if schedule.interval_ms and schedule.next_ms <= last_ms:
        missed = (last_ms - schedule.next_ms) // schedule.interval_ms + 1
        schedule.last_ms = schedule.next_ms + (missed - 1) * schedule.interval_ms
        schedule.missed += missed
    else:
        for due in islice(takewhile(lambda due: due <= last_ms, times), _MAX_COUNTED):
            schedule.last_ms = due
            schedule.missed += 1
    if schedule.next_ms <= last_ms:
        schedule.next_ms = _in_time(schedule, _times(schedule, last_ms))


def _times(schedule: Schedule, after_ms: int) -> Iterator[int]:
    anchor_ms = schedule.create_ms if schedule.start_ms is None else schedule.start_ms
    return Recurrence(schedule.cron, schedule.time_zone, schedule.interval_ms, anchor_ms).after(after_ms)


def _in_time(schedule: Schedule, times: Iterator[int]) -> int | None:
    """Return the next of these times, if it is not after the schedule's end."""
    due = next(times, None)
    return None if due is None or (schedule.end_ms is not None and due > schedule.end_ms) else due
