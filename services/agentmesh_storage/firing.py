"""What changes of schedules and their firings do to a ledger, pure: schedules in, new tasks and changed schedules out.

A task of a firing goes through the same rules as any other; that its schedule has moved on is written in the same
transaction.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from agentmesh.kit import errors, telemetry
from agentmesh.kit.recurrence import RecurrenceFault
from agentmesh_storage import schedules
from agentmesh_storage.domain import CreateTask, Mutation, Outcome, Task
from agentmesh_storage.schedules import (
    CreateSchedule,
    DeleteSchedule,
    FireSchedule,
    Overlap,
    PauseSchedule,
    Schedule,
)

if TYPE_CHECKING:
    from agentmesh_storage.ledger import Ledger

log = telemetry.logger(__name__)

_FAULT_RETRY_MS = 3_600_000  # a time zone may come back with the next update


def create(ledger: "Ledger", mutation: Mutation) -> Outcome:
    """Take a new schedule in, or return the one that this request_id made."""
    change = mutation.change
    assert isinstance(change, CreateSchedule)
    schedule = replace(change.schedule)  # a transaction that starts over needs it as it was
    key = (schedule.tenant, schedule.request_id)
    twin = ledger.schedule_requests.get(key) if schedule.request_id else None
    if twin is not None:
        if twin.request_hash != schedule.request_hash:
            raise errors.AlreadyExists("this request_id was used for another request", reason="REQUEST_ID_REUSED")
        return Outcome(existed=True, schedule=twin)
    if ledger.schedule_counts.get(schedule.tenant, 0) >= schedules.MAX_SCHEDULES:
        raise errors.ResourceExhausted(
            f"there are {schedules.MAX_SCHEDULES} schedules already: delete some", reason="TOO_MANY_SCHEDULES"
        )
    if not schedule.cron and schedule.interval_ms <= 0:
        raise errors.InvalidRequest("a field is wrong", violations=[("spec.interval", "must be above 0")])
    schedule.create_ms = ledger.now_ms
    try:
        schedules.begin(schedule, ledger.now_ms)
    except RecurrenceFault as fault:
        raise errors.InvalidRequest(
            "a field is wrong", violations=[(f"spec.{fault.field}", fault.description)]
        ) from fault
    ledger.schedules[schedule.id] = schedule
    ledger.created_schedules[schedule.id] = schedule
    ledger.schedule_counts[schedule.tenant] = ledger.schedule_counts.get(schedule.tenant, 0) + 1
    if schedule.request_id:
        ledger.schedule_requests[key] = schedule
    return Outcome(schedule=schedule)


def delete(ledger: "Ledger", mutation: Mutation) -> Outcome:
    """Forget a schedule; the tasks that it made stay."""
    change = mutation.change
    assert isinstance(change, DeleteSchedule)
    schedule = _owned(ledger, mutation.tenant, change.schedule_id)
    del ledger.schedules[schedule.id]
    ledger.created_schedules.pop(schedule.id, None)
    ledger.changed_schedules.pop(schedule.id, None)
    ledger.deleted_schedules.append(schedule.id)
    ledger.schedule_requests.pop((schedule.tenant, schedule.request_id), None)
    return Outcome(schedule=schedule)


def pause(ledger: "Ledger", mutation: Mutation) -> Outcome:
    """Pause a schedule, or let it go on from now; it is no error if that is how it stands."""
    change = mutation.change
    assert isinstance(change, PauseSchedule)
    schedule = _owned(ledger, mutation.tenant, change.schedule_id)
    if change.resume and schedule.paused:
        _begin_again(schedule, ledger.now_ms)
        schedule.paused = False
        ledger.changed_schedules[schedule.id] = schedule
    elif not change.resume and not schedule.paused:
        schedules.pause(schedule)
        ledger.changed_schedules[schedule.id] = schedule
    return Outcome(schedule=schedule)


def run_now(ledger: "Ledger", mutation: Mutation) -> Outcome:
    """Make a schedule's task out of its turn; one request_id makes one task."""
    change = mutation.change
    assert isinstance(change, FireSchedule)
    schedule = _owned(ledger, mutation.tenant, change.schedule_id)
    request_id = request_id_of(change)
    outcome = _make_task(ledger, schedule, change.task_id, request_id, mutation.origin)
    outcome.task = outcome.task or ledger.tasks[outcome.task_id]
    outcome.schedule = schedule
    return outcome


def request_id_of(change: FireSchedule) -> str:
    """Return the request_id of the task that is made; empty if nothing makes repeating safe."""
    return f"schedule:{change.schedule_id}:{change.request_id}" if change.request_id else ""


def take(ledger: "Ledger", schedule: Schedule, unfinished: Sequence[Task]) -> list[str]:
    """Let a schedule move past what is due, and return the ids of the tasks that are to be made.

    `unfinished` are the tasks of earlier firings, or one of them if none is to be canceled. The caller then loads the
    tasks that exist already, and calls `make`.
    """
    ledger.schedules[schedule.id] = schedule
    ledger.changed_schedules[schedule.id] = schedule
    try:
        makes = schedules.advance(schedule, ledger.now_ms, busy=bool(unfinished))
    except RecurrenceFault as fault:
        log.error("schedule_unreadable", schedule_id=schedule.id, field=fault.field)
        schedule.next_ms = ledger.now_ms + _FAULT_RETRY_MS
        return []
    if makes and schedule.overlap is Overlap.CANCEL:
        for task in unfinished:
            if task.cancel_ms is None and not task.state.terminal:
                ledger.cancel(task)
    return [schedules.firing_id(schedule.id, due_ms) for due_ms in makes]


def make(ledger: "Ledger", schedule: Schedule, task_ids: Sequence[str]) -> None:
    """Make the tasks of firings, each of them that does not exist yet."""
    for task_id in task_ids:
        if task_id not in ledger.tasks:
            _make_task(ledger, schedule, task_id, "", "")


def _make_task(ledger: "Ledger", schedule: Schedule, task_id: str, request_id: str, origin: str) -> Outcome:
    task = Task(
        id=task_id,
        tenant=schedule.tenant,
        agent=schedule.agent,
        spec=schedule.task_spec,
        create_ms=0,
        priority=schedule.priority,
        request_id=request_id,
        context_id=schedule.context_id,
        timeout_ms=schedule.timeout_ms,
        schedule_id=schedule.id,
    )
    change = CreateTask(task, dict(schedule.labels), queue_timeout_ms=schedule.queue_timeout_ms)
    outcome = ledger.apply(Mutation(schedule.tenant, change, origin))
    if isinstance(outcome, errors.MeshError):
        raise outcome
    if not outcome.existed:
        schedule.fired += 1
        schedule.last_task_id = task_id
        ledger.changed_schedules[schedule.id] = schedule
    return outcome


def _owned(ledger: "Ledger", tenant: str, schedule_id: str) -> Schedule:
    schedule = ledger.schedules.get(schedule_id)
    if schedule is None or schedule.tenant != tenant:
        raise errors.NotFound("there is no such schedule", reason="SCHEDULE_NOT_FOUND")
    return schedule


def _begin_again(schedule: Schedule, now_ms: int) -> None:
    try:
        schedules.begin(schedule, now_ms)
    except RecurrenceFault as fault:
        raise errors.WrongState(
            f"the schedule can't be read any more: {fault}", reason="SCHEDULE_UNREADABLE"
        ) from fault
