"""How a schedule is shown to people."""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice, takewhile

from agentmesh.api.schedule.v1 import schedule_service_pb2 as pb
from agentmesh.cli.output import shortened, time_text
from agentmesh.cli.times import duration_text
from agentmesh.kit.clock import to_ms
from agentmesh.kit.recurrence import Recurrence, RecurrenceFault, zone_of

_SHOWN = 5


def when_text(spec: pb.ScheduleSpec) -> str:
    """Say when a schedule fires."""
    if not spec.HasField("cron"):
        return f"every {duration_text(to_ms(spec.interval) / 1000)}"
    return f"{spec.cron} ({spec.time_zone or 'UTC'})"


def next_text(schedule: pb.Schedule) -> str:
    """Say when a schedule fires next, in this machine's time zone."""
    return "paused" if schedule.paused else time_text(schedule.next_time) or "never"


def lines_of(schedule: pb.Schedule) -> Iterator[tuple[str, str]]:
    """Yield what is known of a schedule: a name, which may be that of the line before, and a value."""
    spec = schedule.spec
    lines = {
        "schedule": schedule.id,
        "name": shortened(spec.name),
        "when": when_text(spec),
        "overlap": _policy(spec.overlap),
        "catch up": duration_text(to_ms(spec.catch_up) / 1000) if spec.HasField("catch_up") else "1m",
        "from": time_text(spec.start_time),
        "until": time_text(spec.end_time),
        "agent": spec.task.agent,
        "prompt": shortened(spec.task.prompt),
        "created": time_text(schedule.create_time),
        "fired": f"{schedule.fired} ({schedule.skipped} skipped, {schedule.missed} missed)",
        "last due": time_text(schedule.last_time),
        "last task": schedule.last_task_id,
    }
    yield from ((name, value) for name, value in lines.items() if value)
    times = next_times(schedule)
    yield "next", next_text(schedule) if not times else times[0]
    yield from (("", time) for time in times[1:])


def next_times(schedule: pb.Schedule) -> list[str]:
    """Return the next five times in the schedule's time zone; none if it is paused, or can't be read here."""
    spec = schedule.spec
    if schedule.paused or not schedule.HasField("next_time"):
        return []
    anchor = spec.start_time if spec.HasField("start_time") else schedule.create_time
    recurrence = Recurrence(spec.cron, spec.time_zone, to_ms(spec.interval), to_ms(anchor))
    end_ms = to_ms(spec.end_time) if spec.HasField("end_time") else None
    try:
        times = recurrence.after(to_ms(schedule.next_time) - 1)
        zone = zone_of(spec.time_zone) if spec.time_zone or spec.cron else None
    except RecurrenceFault:
        return []
    found = islice(takewhile(lambda ms: end_ms is None or ms <= end_ms, times), _SHOWN)
    moments = [datetime.fromtimestamp(ms / 1000, UTC).astimezone(zone) for ms in found]
    return [f"{moment:%Y-%m-%d %H:%M:%S %Z}" for moment in moments]


def _policy(overlap: pb.OverlapPolicy.ValueType) -> str:
    name = pb.OverlapPolicy.Name(overlap or pb.OVERLAP_POLICY_SKIP)
    return name.removeprefix("OVERLAP_POLICY_").lower()
