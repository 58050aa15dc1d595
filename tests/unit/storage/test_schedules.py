import dataclasses
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh.kit.ids import is_id, new_id
from agentmesh.kit.recurrence import RecurrenceFault
from agentmesh_storage.schedules import (
    MAX_FIRINGS,
    ON_TIME_MS,
    Overlap,
    Schedule,
    advance,
    begin,
    firing_id,
    pause,
)
from tests.contract.task_store_driver import START_MS

MINUTE_MS = 60_000
DAY_MS = 86_400_000


def begun(now_ms: int = START_MS, **fields: object) -> Schedule:
    """Return a schedule that was made at a time; every minute unless it says otherwise."""
    if "cron" not in fields:
        fields.setdefault("interval_ms", MINUTE_MS)
    schedule = Schedule(**{"id": new_id(), "tenant": "acme", "spec": b"", "task_spec": b"", "agent": "echo", **fields})  # type: ignore[arg-type]
    schedule.create_ms = now_ms
    begin(schedule, now_ms)
    return schedule


def counted(schedule: Schedule) -> tuple[int, int]:
    return schedule.skipped, schedule.missed


# -- when it fires ------------------------------------------------------------------------------------------


def test_an_interval_counts_from_the_creation_or_from_its_start() -> None:
    assert begun().next_ms == START_MS + MINUTE_MS
    assert begun(start_ms=START_MS + 5).next_ms == START_MS + 5
    assert begun(start_ms=START_MS - 5).next_ms == START_MS - 5 + MINUTE_MS


def test_nothing_is_due_before_its_time_and_the_due_time_names_the_firing() -> None:
    schedule = begun()
    due = START_MS + MINUTE_MS
    assert advance(schedule, due - 1, busy=False) == []
    assert (schedule.next_ms, schedule.last_ms) == (due, None)
    assert advance(schedule, due + 300, busy=False) == [due]
    assert (schedule.next_ms, schedule.last_ms) == (due + MINUTE_MS, due)
    assert advance(schedule, due + 300, busy=False) == []


def test_it_ends_with_its_last_time() -> None:
    schedule = begun(end_ms=START_MS + 2 * MINUTE_MS, overlap=Overlap.ALLOW, catch_up_ms=DAY_MS)
    assert advance(schedule, START_MS + DAY_MS, busy=False) == [START_MS + MINUTE_MS, START_MS + 2 * MINUTE_MS]
    assert schedule.next_ms is None
    assert begun(end_ms=START_MS + MINUTE_MS - 1).next_ms is None


def test_what_was_due_before_it_began_or_while_it_was_paused_is_none_of_its_firings() -> None:
    schedule = begun(catch_up_ms=DAY_MS, overlap=Overlap.ALLOW)
    pause(schedule)
    assert (schedule.paused, schedule.next_ms) == (True, None)
    assert advance(schedule, START_MS + 10 * MINUTE_MS, busy=False) == []
    begin(schedule, START_MS + 10 * MINUTE_MS)
    assert schedule.next_ms == START_MS + 11 * MINUTE_MS
    assert counted(schedule) == (0, 0)


# -- what comes too late ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{"interval_ms": MINUTE_MS}, {"cron": "* * * * *"}])
def test_late_firings_are_made_up_for_and_older_ones_counted_as_missed(fields: dict[str, object]) -> None:
    schedule = begun(catch_up_ms=3 * MINUTE_MS, overlap=Overlap.ALLOW, **fields)
    now = START_MS + 10 * MINUTE_MS
    made = advance(schedule, now, busy=False)
    assert made == [START_MS + n * MINUTE_MS for n in (7, 8, 9, 10)]
    assert counted(schedule) == (0, 6)
    assert schedule.next_ms == now + MINUTE_MS


@pytest.mark.parametrize("fields", [{"interval_ms": 1000}, {"cron": "* * * * * *"}])
def test_a_firing_in_time_is_made_even_if_nothing_is_made_up_for(fields: dict[str, object]) -> None:
    schedule = begun(overlap=Overlap.ALLOW, **fields)
    made = advance(schedule, START_MS + 20_000, busy=False)
    assert made[0] == START_MS + 20_000 - ON_TIME_MS
    assert counted(schedule) == (0, 20 - len(made))


@pytest.mark.parametrize(
    ("fields", "missed"), [({"interval_ms": 1000}, 86_400 * 366 - 6), ({"cron": "* * * * * *"}, 1000)]
)
def test_a_year_of_missed_seconds_is_passed_in_one_step(fields: dict[str, object], missed: int) -> None:
    schedule = begun(overlap=Overlap.ALLOW, **fields)
    now = START_MS + 366 * DAY_MS
    assert advance(schedule, now, busy=False)[-1] == now
    assert schedule.next_ms == now + 1000
    assert schedule.missed == missed


@pytest.mark.parametrize("fields", [{"interval_ms": MINUTE_MS}, {"cron": "* * * * *"}])
def test_nothing_after_its_end_is_missed(fields: dict[str, object]) -> None:
    schedule = begun(end_ms=START_MS + 3 * MINUTE_MS, **fields)
    assert advance(schedule, START_MS + DAY_MS, busy=False) == []
    assert (schedule.missed, schedule.next_ms, schedule.last_ms) == (3, None, START_MS + 3 * MINUTE_MS)


def test_many_late_firings_are_made_a_bounded_number_at_a_time_and_none_is_lost() -> None:
    schedule = begun(interval_ms=1000, catch_up_ms=DAY_MS, overlap=Overlap.ALLOW)
    now = START_MS + 250_000
    made: list[int] = []
    for _ in range(3):
        some = advance(schedule, now, busy=False)
        assert len(some) <= MAX_FIRINGS
        made += some
    assert made == list(range(START_MS + 1000, now + 1, 1000))


# -- overlap ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overlap", "busy", "due", "makes", "skipped", "waits"),
    [
        (Overlap.SKIP, False, 1, [1], 0, None),
        (Overlap.SKIP, False, 3, [1], 2, None),
        (Overlap.SKIP, True, 3, [], 3, None),
        (Overlap.ALLOW, True, 3, [1, 2, 3], 0, None),
        (Overlap.QUEUE, False, 1, [1], 0, None),
        (Overlap.QUEUE, True, 1, [], 0, 1),
        (Overlap.QUEUE, True, 3, [], 2, 1),
        (Overlap.QUEUE, False, 3, [1], 1, 2),
        (Overlap.CANCEL, True, 1, [1], 0, None),
        (Overlap.CANCEL, True, 3, [3], 2, None),
        (Overlap.CANCEL, False, 3, [3], 2, None),
    ],
)
def test_firings_that_overlap_follow_the_policy(
    overlap: Overlap, busy: bool, due: int, makes: list[int], skipped: int, waits: int | None
) -> None:
    schedule = begun(overlap=overlap, catch_up_ms=DAY_MS)
    now = START_MS + due * MINUTE_MS
    assert advance(schedule, now, busy=busy) == [START_MS + n * MINUTE_MS for n in makes]
    assert schedule.skipped == skipped
    assert schedule.waiting_ms == (None if waits is None else START_MS + waits * MINUTE_MS)
    assert schedule.next_ms == now + MINUTE_MS


def test_a_firing_that_waits_is_made_when_the_earlier_task_has_ended_however_late() -> None:
    schedule = begun(overlap=Overlap.QUEUE, end_ms=START_MS + MINUTE_MS)
    assert advance(schedule, START_MS + MINUTE_MS, busy=True) == []
    assert advance(schedule, START_MS + DAY_MS, busy=True) == []
    assert advance(schedule, START_MS + DAY_MS, busy=False) == [START_MS + MINUTE_MS]
    assert advance(schedule, START_MS + DAY_MS, busy=False) == []


def test_a_firing_that_waits_is_given_up_by_a_pause() -> None:
    schedule = begun(overlap=Overlap.QUEUE)
    advance(schedule, START_MS + MINUTE_MS, busy=True)
    pause(schedule)
    assert advance(schedule, START_MS + DAY_MS, busy=False) == []
    assert schedule.skipped == 1


# -- once ---------------------------------------------------------------------------------------------------


@given(
    interval=st.integers(1000, 10 * MINUTE_MS),
    sweeps=st.lists(st.integers(0, 20 * MINUTE_MS), min_size=1, max_size=30),
    catch_up=st.sampled_from([0, MINUTE_MS, DAY_MS]),
    overlap=st.sampled_from(list(Overlap)),
    seed=st.integers(0, 2**32),
)
def test_each_due_time_is_made_skipped_or_missed_once_over_any_sequence_of_sweeps(
    interval: int, sweeps: list[int], catch_up: int, overlap: Overlap, seed: int
) -> None:
    chance = random.Random(seed)
    schedule = begun(interval_ms=interval, catch_up_ms=catch_up, overlap=overlap)
    now, made = START_MS, list[int]()
    for step in sweeps:
        now += step
        while True:
            made += advance(schedule, now, busy=chance.random() < 0.5)
            assert schedule.next_ms is not None
            if schedule.next_ms > now:
                break
    due = range(START_MS + interval, now + 1, interval)
    assert made == sorted(set(made))
    assert set(made) <= set(due)
    waiting = schedule.waiting_ms is not None
    assert len(made) + schedule.skipped + schedule.missed + waiting == len(due)
    if overlap is Overlap.ALLOW and catch_up == DAY_MS and now - START_MS < DAY_MS:
        assert made == list(due)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York"])
@given(hours=st.lists(st.integers(1, 40), min_size=1, max_size=60))
def test_a_daily_firing_happens_once_a_day_over_every_change_of_clocks(zone: str, hours: list[int]) -> None:
    schedule = begun(cron="30 2 * * *", time_zone=zone, catch_up_ms=3 * DAY_MS, overlap=Overlap.ALLOW)
    reference = begun(cron="30 2 * * *", time_zone=zone, catch_up_ms=3 * DAY_MS, overlap=Overlap.ALLOW)
    now, made = START_MS, list[int]()
    for step in hours:
        now += step * 3_600_000
        made += advance(schedule, now, busy=False)
    every = []
    for at in range(START_MS, now + 1, 600_000):
        every += advance(reference, at, busy=False)
    assert made == every
    assert all(22 * 3_600_000 <= later - earlier <= 26 * 3_600_000 for earlier, later in pairwise(made))


def test_a_firings_task_has_the_same_id_whoever_computes_it_and_the_shard_of_its_schedule() -> None:
    schedule_id = new_id(shard=7)
    one = firing_id(schedule_id, START_MS)
    assert is_id(one)
    assert one == firing_id(schedule_id, START_MS)
    assert one != firing_id(schedule_id, START_MS + 1)
    assert one != firing_id(new_id(shard=7), START_MS)
    assert one[14] == "7"
    assert one[21:23] == "07"
    assert sorted([firing_id(schedule_id, START_MS + n) for n in (3, 1, 2)]) == [
        firing_id(schedule_id, START_MS + n) for n in (1, 2, 3)
    ]


def test_a_time_zone_that_is_gone_leaves_the_schedule_as_it_was() -> None:
    schedule = dataclasses.replace(begun(cron="* * * * *"), time_zone="Atlantis/Main")
    before = dataclasses.replace(schedule)
    with pytest.raises(RecurrenceFault):
        advance(schedule, START_MS + MINUTE_MS, busy=False)
    assert schedule == before
