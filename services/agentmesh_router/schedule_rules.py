"""The router's rules for schedules, pure: what a valid one is."""

from dataclasses import dataclass

from agentmesh.kit.clock import LAST_TIME_MS
from agentmesh.kit.recurrence import Recurrence, RecurrenceFault
from agentmesh_router.domain import MAX_DELAY_S, Violations

DEFAULT_CATCH_UP_MS = 60_000
MAX_NAME_CHARS = 128
MAX_RUN_REQUEST_ID = 64
_OVERLAPS = range(5)
_MIN_INTERVAL_MS, _MAX_INTERVAL_MS = 1_000, 366 * 86_400_000
_MAX_CATCH_UP_MS = 30 * 86_400_000


@dataclass(frozen=True, slots=True)
class ScheduleFacts:
    """What validation looks at. `None` for what was not given."""

    name: str
    cron: str | None
    interval_ms: int | None
    time_zone: str
    overlap: int
    catch_up_ms: int | None
    start_ms: int | None
    end_ms: int | None
    task_has_start: bool


def violations_of(facts: ScheduleFacts, now_ms: int) -> Violations:
    """Return every field that breaks a rule of the contract, with what it should be; those of the task aside."""
    found: Violations = []
    if len(facts.name) > MAX_NAME_CHARS:
        found.append(("spec.name", f"must be at most {MAX_NAME_CHARS} characters"))
    if facts.overlap not in _OVERLAPS:
        found.append(("spec.overlap", "is no policy: SKIP, ALLOW, QUEUE or CANCEL"))
    if facts.catch_up_ms is not None and not 0 <= facts.catch_up_ms <= _MAX_CATCH_UP_MS:
        found.append(("spec.catch_up", "must be from 0 s to 30 days"))
    if facts.task_has_start:
        found.append(("spec.task.start_time", "must be absent: the schedule says when"))
    when = _time_faults(facts, now_ms) + _interval_faults(facts)
    return found + (when or _recurrence_faults(facts, now_ms))


def _time_faults(facts: ScheduleFacts, now_ms: int) -> Violations:
    found: Violations = []
    start_ms, end_ms = facts.start_ms, facts.end_ms
    if start_ms is not None and not 0 <= start_ms <= now_ms + MAX_DELAY_S * 1000:
        found.append(("spec.start_time", "must be from 1970 to 10 years from now"))
    if end_ms is not None and not now_ms < end_ms <= LAST_TIME_MS:
        found.append(("spec.end_time", "must be in the future, and before the year 10000"))
    elif start_ms is not None and end_ms is not None and end_ms < start_ms:
        found.append(("spec.end_time", "is before start_time"))
    return found


def _interval_faults(facts: ScheduleFacts) -> Violations:
    if facts.interval_ms is not None and not _MIN_INTERVAL_MS <= facts.interval_ms <= _MAX_INTERVAL_MS:
        return [("spec.interval", "must be from 1 s to 366 days")]
    return []


def _recurrence_faults(facts: ScheduleFacts, now_ms: int) -> Violations:
    if not facts.cron and facts.interval_ms is None:
        return [("spec.cron", "is needed, unless interval is given")]
    anchor_ms = now_ms if facts.start_ms is None else facts.start_ms
    try:
        # A time zone is checked also where nothing is read in it.
        Recurrence(cron="0 0 * * *", time_zone=facts.time_zone).after(0)
        recurrence = Recurrence(facts.cron or "", facts.time_zone, facts.interval_ms or 0, anchor_ms)
        first_ms = recurrence.next_after(max(now_ms, anchor_ms - 1))
    except RecurrenceFault as fault:
        return [(f"spec.{fault.field}", fault.description)]
    if first_ms is None:
        return [("spec.cron" if facts.cron else "spec.interval", "never comes")]
    if facts.end_ms is not None and first_ms > facts.end_ms:
        return [("spec.end_time", "is before the first time that it would fire")]
    return []
