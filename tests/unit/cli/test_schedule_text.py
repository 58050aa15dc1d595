from datetime import UTC, datetime

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh.api.schedule.v1 import schedule_service_pb2 as pb
from agentmesh.cli.schedule_text import lines_of, next_text, next_times, when_text
from agentmesh.cli.times import DurationType, MomentType, TimeZoneType, duration_text
from agentmesh.kit.clock import timestamp

BERLIN_MS = int(datetime(2026, 10, 24, 7, tzinfo=UTC).timestamp() * 1000)  # 9 o'clock in Berlin


def schedule(**fields: object) -> pb.Schedule:
    """Return a schedule of every day at 9 in Berlin that fires next on the day before clocks change."""
    spec = pb.ScheduleSpec(cron="0 9 * * *", time_zone="Europe/Berlin")
    return pb.Schedule(id="s", spec=spec, next_time=timestamp(BERLIN_MS), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("0", 0), ("1.5", 1.5), ("30s", 30), ("15m", 900), ("1h30m", 5400), ("2D", 172_800), ("1w", 604_800)],
)
def test_durations_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert DurationType().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "m", "-5m", "5 m", "5x", "1h30", "1e3", "²m", "9" * 40])
def test_what_is_no_duration_is_refused_with_examples(text: str) -> None:
    with pytest.raises(click.BadParameter, match="15m"):
        DurationType().convert(text, None, None)


@given(st.integers(0, 366 * 86_400))
def test_a_duration_that_is_said_is_read_as_the_same(seconds: int) -> None:
    assert DurationType().convert(duration_text(seconds), None, None) == seconds


def test_a_moment_has_a_zone_whether_it_names_one_or_not() -> None:
    assert MomentType().convert("2026-01-31T09:00+01:00", None, None) == datetime(2026, 1, 31, 8, tzinfo=UTC)
    assert MomentType().convert("2026-01-31", None, None).tzinfo is not None
    with pytest.raises(click.BadParameter, match="2026-01-31"):
        MomentType().convert("tomorrow", None, None)


def test_time_zones_are_completed() -> None:
    option = click.Option(["--time-zone"], type=TimeZoneType())
    found = TimeZoneType().shell_complete(click.Context(click.Command("x")), option, "europe/be")
    assert {item.value for item in found} >= {"Europe/Berlin", "Europe/Belgrade"}
    assert all(item.value.startswith("Europe/Be") for item in found)


def test_the_next_five_times_are_shown_where_the_schedule_lives() -> None:
    assert next_times(schedule()) == [
        "2026-10-24 09:00:00 CEST",
        "2026-10-25 09:00:00 CET",
        "2026-10-26 09:00:00 CET",
        "2026-10-27 09:00:00 CET",
        "2026-10-28 09:00:00 CET",
    ]
    ending = schedule()
    ending.spec.end_time.CopyFrom(timestamp(BERLIN_MS + 25 * 3_600_000))
    assert len(next_times(ending)) == 2


def test_a_schedule_that_is_paused_or_over_has_no_next_time() -> None:
    paused = schedule(paused=True)
    assert (next_text(paused), next_times(paused)) == ("paused", [])
    assert next_text(pb.Schedule()) == "never"
    assert dict(lines_of(paused))["next"] == "paused"


def test_a_zone_that_this_machine_does_not_know_leaves_what_the_mesh_said() -> None:
    foreign = schedule()
    foreign.spec.time_zone = "Atlantis/Main"
    assert next_times(foreign) == []
    assert dict(lines_of(foreign))["next"] == next_text(foreign)


def test_an_interval_is_said_as_a_duration() -> None:
    spec = pb.ScheduleSpec()
    spec.interval.FromSeconds(5400)
    assert when_text(spec) == "every 1h30m"
    assert when_text(pb.ScheduleSpec(cron="0 9 * * *")) == "0 9 * * * (UTC)"
