from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh.kit.recurrence import Recurrence, RecurrenceFault

DAY_MS = 86_400_000


def ms(text: str) -> int:
    """Read a time in ISO 8601; UTC unless it says otherwise."""
    moment = datetime.fromisoformat(text)
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def times(cron: str, zone: str, after: str, count: int) -> list[str]:
    """Return the next times as that zone's clocks show them, with their offset."""
    found = islice(Recurrence(cron=cron, time_zone=zone).after(ms(after)), count)
    return [datetime.fromtimestamp(one / 1000, ZoneInfo(zone or "UTC")).strftime("%m-%d %H:%M:%S%z") for one in found]


@pytest.mark.parametrize(
    ("cron", "zone", "after", "expected"),
    [
        ("*/20 * * * *", "", "2026-01-01T00:30", ["01-01 00:40:00+0000", "01-01 01:00:00+0000", "01-01 01:20:00+0000"]),
        ("0 9 * * MON-FRI", "", "2026-01-02T09:00", ["01-05 09:00:00+0000", "01-06 09:00:00+0000"]),
        ("*/15 30 9 * * *", "", "2026-01-01T09:30:14", ["01-01 09:30:15+0000", "01-01 09:30:30+0000"]),
        ("0 0 L * *", "", "2026-01-31T00:00", ["02-28 00:00:00+0000", "03-31 00:00:00+0000"]),
        ("0 0 29 2 *", "", "2026-01-01T00:00", ["02-29 00:00:00+0000"]),
        # Berlin: on 29 March 2 o'clock becomes 3, on 25 October 3 o'clock becomes 2.
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00", ["03-29 03:00:00+0200", "03-30 02:30:00+0200"]),
        ("0 30 2 * * *", "Europe/Berlin", "2026-03-28T12:00", ["03-29 03:00:00+0200", "03-30 02:30:00+0200"]),
        ("0,30 2,3 * * *", "Europe/Berlin", "2026-03-29T00:59", ["03-29 03:00:00+0200", "03-29 03:30:00+0200"]),
        ("*/10 2 * * *", "Europe/Berlin", "2026-03-28T12:00", ["03-29 03:00:00+0200", "03-30 02:00:00+0200"]),
        ("0 */2 * * *", "Europe/Berlin", "2026-03-29T00:00", ["03-29 03:00:00+0200", "03-29 04:00:00+0200"]),
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00", ["10-25 02:30:00+0200", "10-26 02:30:00+0100"]),
        ("0 30 2 * * *", "Europe/Berlin", "2026-10-24T12:00", ["10-25 02:30:00+0200", "10-26 02:30:00+0100"]),
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T01:10", ["10-26 02:30:00+0100"]),
        ("0 */2 * * *", "Europe/Berlin", "2026-10-24T23:00", ["10-25 02:00:00+0200", "10-25 04:00:00+0100"]),
        # New York: on 8 March 2 o'clock becomes 3, on 1 November 2 o'clock becomes 1.
        ("15 2 * * *", "America/New_York", "2026-03-07T12:00", ["03-08 03:00:00-0400", "03-09 02:15:00-0400"]),
        ("15 1 * * *", "America/New_York", "2026-10-31T12:00", ["11-01 01:15:00-0400", "11-02 01:15:00-0500"]),
        # Every hour is every hour.
        ("0 * * * *", "Europe/Berlin", "2026-03-29T00:00", ["03-29 03:00:00+0200", "03-29 04:00:00+0200"]),
        (
            "30 * * * *",
            "America/New_York",
            "2026-11-01T05:00",
            ["11-01 01:30:00-0400", "11-01 01:30:00-0500", "11-01 02:30:00-0500"],
        ),
    ],
)
def test_an_expression_means_local_time_and_a_change_of_clocks_doubles_and_loses_nothing(
    cron: str, zone: str, after: str, expected: list[str]
) -> None:
    assert times(cron, zone, after, len(expected)) == expected


def test_a_gap_at_midnight_and_one_of_a_whole_day_end_somewhere() -> None:
    assert times("0 0 * * *", "Africa/Cairo", "2026-04-23T12:00", 1) == ["04-24 01:00:00+0300"]
    assert times("0 12 30 12 *", "Pacific/Apia", "2011-12-29T00:00", 1) == ["12-31 00:00:00+1400"]


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"])
@given(
    cron=st.sampled_from(["30 2 * * *", "*/7 1,2,3 * * *", "0 30 1 * * *", "*/20 * * * *", "0 0,2 * * SUN"]),
    start=st.integers(1_700_000_000, 1_900_000_000),
    skip=st.integers(0, 40),
)
def test_asking_again_from_any_time_gives_the_same_times(zone: str, cron: str, start: int, skip: int) -> None:
    recurrence = Recurrence(cron=cron, time_zone=zone)
    series = list(islice(recurrence.after(start * 1000), skip + 5))
    assert series == sorted(set(series))
    assert list(islice(recurrence.after(series[skip]), 4)) == series[skip + 1 :]
    assert recurrence.next_after(series[skip] - 1) == series[skip]


@given(
    anchor=st.integers(0, 10**13),
    interval=st.integers(1000, 366 * DAY_MS),
    after=st.integers(0, 10**13),
)
def test_an_interval_is_counted_from_its_anchor_without_drift(anchor: int, interval: int, after: int) -> None:
    found = Recurrence(interval_ms=interval, anchor_ms=anchor).next_after(after)
    assert found is not None
    assert found > after
    assert (found - anchor) % interval == 0
    assert found == anchor or found - interval <= after


def test_a_date_that_does_not_exist_never_comes() -> None:
    assert list(islice(Recurrence(cron="0 0 1 1 *").after(ms("9890-01-01")), 5)) == [ms("9891-01-01"), ms("9892-01-01")]
    assert Recurrence(cron="* * * * *").next_after(10**18) is None
    assert Recurrence(interval_ms=1000).next_after(10**18) is None


@pytest.mark.parametrize(
    ("field", "cron", "zone"),
    [
        ("cron", "* * * *", ""),
        ("cron", "61 * * * *", ""),
        ("cron", "0 0 30 2 *", ""),
        ("cron", "0 0 * * 5L/2", ""),
        ("cron", "@daily", ""),
        ("cron", "1," * 200 + "1 * * * *", ""),
        ("time_zone", "0 0 * * *", "Europe/Berln"),
        ("time_zone", "0 0 * * *", "Europe"),
        ("time_zone", "0 0 * * *", "../../etc/passwd"),
        ("time_zone", "0 0 * * *", "x" * 500),
        ("time_zone", "0 0 * * *", "localtime"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_field(field: str, cron: str, zone: str) -> None:
    with pytest.raises(RecurrenceFault) as refused:
        Recurrence(cron=cron, time_zone=zone).after(0)
    assert refused.value.field == field


@given(st.lists(st.text("0123456789*,-/#LWMONSUJA ", max_size=8), min_size=5, max_size=6).map(" ".join))
def test_any_text_either_has_times_or_is_refused(cron: str) -> None:
    try:
        found = Recurrence(cron=cron, time_zone="Europe/Berlin").next_after(ms("2026-01-01"))
    except RecurrenceFault:
        return
    assert found is None or found > ms("2026-01-01")


@given(st.text(max_size=80))
def test_any_text_is_a_time_zone_or_refused(zone: str) -> None:
    with suppress(RecurrenceFault):
        Recurrence(cron="0 0 * * *", time_zone=zone).after(0)
