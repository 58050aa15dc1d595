"""What every TaskStore holds about schedules and their firings."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agentmesh.kit import recurrence
from agentmesh.kit.errors import AlreadyExists, InvalidRequest, MeshError, NotFound, ResourceExhausted
from agentmesh.kit.ids import new_id
from agentmesh_storage import domain as d
from agentmesh_storage import schedules as s
from agentmesh_storage.adapters.schedule_rows import BATCH
from agentmesh_storage.schedules import Overlap
from tests.contract.task_store_driver import RUNNER, START_MS, Driver, postgres, sqlite

State = d.State
MINUTE_MS = 60_000


def new(**fields: Any) -> s.CreateSchedule:
    """Describe a schedule; every minute unless it says otherwise."""
    if "cron" not in fields:
        fields.setdefault("interval_ms", MINUTE_MS)
    given = {"id": new_id(), "tenant": "acme", "spec": b"spec", "task_spec": b"", "agent": "echo", **fields}
    return s.CreateSchedule(s.Schedule(**given))


async def create(driver: Driver, **fields: Any) -> str:
    change = new(**fields)
    await driver.do(change, tenant=change.schedule.tenant)
    return change.schedule.id


async def read(driver: Driver, schedule_id: str, tenant: str = "acme") -> s.Schedule:
    return await driver.store.get_schedule(tenant, schedule_id)


async def fire(driver: Driver) -> None:
    """Fire until nothing is due."""
    more = True
    while more:
        driver.news, more = await driver.store.fire(driver.now)


async def made(driver: Driver, schedule_id: str, tenant: str = "acme") -> list[d.Task]:
    """Return the tasks of a schedule, oldest first."""
    page = await driver.store.list_tasks(d.TaskFilter(tenant, 1000, schedule_id=schedule_id))
    return page.tasks[::-1]


async def minutes(driver: Driver, schedule_id: str) -> list[int]:
    """Return at which minutes the tasks of a schedule were due, read from their ids."""
    return [(due_of(task) - START_MS) // MINUTE_MS for task in await made(driver, schedule_id)]


def due_of(task: d.Task) -> int:
    return int(task.id.replace("-", "")[:12], 16)


# -- schedules ----------------------------------------------------------------------------------------------


async def test_a_schedule_is_read_as_it_was_written(driver: Driver) -> None:
    change = new(
        spec=b"\x00spec",
        task_spec=b"\xfftask",
        cron="*/5 * * * *",
        time_zone="Europe/Berlin",
        overlap=Overlap.QUEUE,
        catch_up_ms=1,
        start_ms=START_MS + 1,
        end_ms=START_MS + 10**9,
        priority=9,
        timeout_ms=2,
        queue_timeout_ms=3,
        context_id="c",
        labels={"süß": "ja", "x": ""},
        request_id="r",
        request_hash=b"h",
    )
    outcome = await driver.do(change)
    expected = dataclasses.replace(change.schedule, create_ms=START_MS, next_ms=START_MS + 5 * MINUTE_MS)
    assert outcome.schedule == await read(driver, change.schedule.id) == expected


async def test_nobody_elses_schedule_is_seen_or_changed(driver: Driver) -> None:
    schedule_id = await create(driver)
    changes: list[d.Change] = [
        s.DeleteSchedule(schedule_id),
        s.PauseSchedule(schedule_id),
        s.FireSchedule(schedule_id, new_id()),
    ]
    for change in changes:
        with pytest.raises(NotFound):
            await driver.do(change, tenant="globex")
    with pytest.raises(NotFound):
        await read(driver, schedule_id, "globex")
    assert (await driver.store.list_schedules("globex", 10, "")).schedules == []
    assert not (await read(driver, schedule_id)).paused


@pytest.mark.parametrize("page_size", [1, 2, 3, 7, 8])
async def test_pages_hold_every_schedule_once_newest_first(driver: Driver, page_size: int) -> None:
    ids = [await create(driver) for _ in range(7)]
    await create(driver, tenant="globex")
    found, after = list[str](), ""
    while True:
        page = await driver.store.list_schedules("acme", page_size, after)
        assert len(page.schedules) <= page_size
        found += [one.id for one in page.schedules]
        after = page.next_after
        if not after:
            break
    assert found == sorted(ids, reverse=True)


async def test_a_page_of_large_schedules_is_cut_by_its_size(driver: Driver) -> None:
    ids = [await create(driver, task_spec=bytes(900_000)) for _ in range(3)]
    first = await driver.store.list_schedules("acme", 10, "")
    rest = await driver.store.list_schedules("acme", 10, first.next_after)
    assert [len(page.schedules) for page in (first, rest)] == [2, 1]
    assert [one.id for page in (first, rest) for one in page.schedules] == sorted(ids, reverse=True)


async def test_one_request_id_is_one_schedule_also_within_a_batch(driver: Driver) -> None:
    changes = [new(request_id="r", request_hash=b"h") for _ in range(3)]
    first = await driver.do(changes[0])
    again, twin = await driver.group(*changes[1:])
    for outcome in (again, twin):
        assert not isinstance(outcome, MeshError)
        assert outcome.existed
        assert outcome.schedule == first.schedule
    with pytest.raises(AlreadyExists):
        await driver.do(new(request_id="r", request_hash=b"other"))
    other = await driver.do(new(request_id="r", request_hash=b"h", tenant="globex"), tenant="globex")
    assert not other.existed


async def test_a_schedule_that_cannot_be_read_is_refused_and_leaves_no_trace(driver: Driver) -> None:
    for wrong in ({"cron": "nonsense"}, {"cron": "* * * * *", "time_zone": "Mars"}, {"interval_ms": 0}):
        with pytest.raises(InvalidRequest):
            await driver.do(new(**wrong))
    assert (await driver.store.list_schedules("acme", 10, "")).schedules == []


async def test_schedules_are_bounded_by_tenant(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s, "MAX_SCHEDULES", 2)
    await create(driver)
    outcomes = await driver.group(new(), new())
    assert [type(outcome) for outcome in outcomes] == [d.Outcome, ResourceExhausted]
    await create(driver, tenant="globex")


async def test_a_deleted_schedule_fires_no_more_and_its_tasks_stay(driver: Driver) -> None:
    schedule_id = await create(driver, request_id="r", request_hash=b"h")
    driver.now += MINUTE_MS
    await fire(driver)
    await driver.do(s.DeleteSchedule(schedule_id))
    driver.now += MINUTE_MS
    await fire(driver)
    assert len(await made(driver, schedule_id)) == 1
    for change in (s.DeleteSchedule(schedule_id), s.PauseSchedule(schedule_id)):
        with pytest.raises(NotFound):
            await driver.do(change)
    assert not (await driver.do(new(request_id="r", request_hash=b"other"))).existed


# -- firings ------------------------------------------------------------------------------------------------


async def test_a_firing_makes_the_task_that_the_schedule_describes(driver: Driver) -> None:
    schedule_id = await create(
        driver,
        task_spec=b"\x12\x02hi",
        priority=9,
        timeout_ms=5000,
        queue_timeout_ms=7000,
        context_id="c",
        labels={"team": "a", "project": "p"},
    )
    await fire(driver)
    assert await made(driver, schedule_id) == []
    driver.now += MINUTE_MS + 40
    await fire(driver)
    (task,) = await made(driver, schedule_id)
    assert (task.spec, task.agent, task.priority, task.timeout_ms) == (b"\x12\x02hi", "echo", 9, 5000)
    assert (task.context_id, task.schedule_id, task.limited_by) == ("c", schedule_id, "project=p")
    assert (task.state, task.create_ms, task.queue_deadline_ms) == (State.SUBMITTED, driver.now, driver.now + 7000)
    assert due_of(task) == START_MS + MINUTE_MS
    assert await driver.said(task.id) == ["SUBMITTED"]
    assert [one.id for one in (await driver.store.list_tasks(d.TaskFilter("acme", 9, label=("team", "a")))).tasks] == [
        task.id
    ]
    assert driver.news.ready_agents == set() or driver.news.ready_agents == {"echo"}
    schedule = await read(driver, schedule_id)
    assert (schedule.fired, schedule.last_task_id, schedule.last_ms) == (1, task.id, START_MS + MINUTE_MS)
    assert schedule.next_ms == START_MS + 2 * MINUTE_MS
    await driver.runner()
    assert [claimed.task.id for claimed in await driver.claim()] == [task.id]


async def test_routers_hear_of_what_was_fired(driver: Driver) -> None:
    await create(driver)
    driver.now += MINUTE_MS
    news, more = await driver.store.fire(driver.now)
    assert not more
    assert news.ready_agents == {"echo"}
    assert [(head.last_sequence, head.state, head.origin) for head in news.heads] == [(1, State.SUBMITTED, "")]
    assert await driver.store.fire(driver.now) == (type(news)(), False)


async def test_each_firing_is_made_once_and_none_is_lost_over_many_sweeps(driver: Driver) -> None:
    schedule_id = await create(driver, overlap=Overlap.ALLOW, catch_up_ms=10 * MINUTE_MS)
    for step in (10, 59_000, 1_000, 0, 30_000, 90_000, 240_000, 1, 0):
        driver.now += step
        await fire(driver)
    assert await minutes(driver, schedule_id) == [1, 2, 3, 4, 5, 6, 7]
    schedule = await read(driver, schedule_id)
    assert (schedule.fired, schedule.skipped, schedule.missed) == (7, 0, 0)


async def test_many_schedules_at_once_all_fire(driver: Driver) -> None:
    count = BATCH + 7
    await driver.group(*(new() for _ in range(count)))
    driver.now += MINUTE_MS
    await fire(driver)
    page = await driver.store.list_tasks(d.TaskFilter("acme", 1000))
    assert len({task.schedule_id for task in page.tasks}) == len(page.tasks) == count


async def test_a_firing_that_was_made_is_not_made_again_by_a_clock_that_went_back(driver: Driver) -> None:
    schedule_id = await create(driver, overlap=Overlap.ALLOW)
    driver.now += MINUTE_MS
    await fire(driver)
    await driver.do(s.PauseSchedule(schedule_id))
    driver.now -= MINUTE_MS // 2
    await driver.do(s.PauseSchedule(schedule_id, resume=True))
    driver.now += MINUTE_MS
    await fire(driver)
    assert await minutes(driver, schedule_id) == [1]
    assert (await read(driver, schedule_id)).fired == 1


async def test_a_schedule_that_cannot_be_read_any_more_stops_no_other(driver: Driver) -> None:
    broken, sound = new(cron="* * * * *"), new()
    await driver.group(broken, sound)
    driver.now += MINUTE_MS
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recurrence, "zone_of", no_zone)
        await fire(driver)
    assert await minutes(driver, sound.schedule.id) == [1]
    assert await minutes(driver, broken.schedule.id) == []
    schedule = await read(driver, broken.schedule.id)
    assert schedule.next_ms is not None
    assert schedule.next_ms > driver.now
    driver.now = schedule.next_ms
    await fire(driver)
    assert len(await made(driver, broken.schedule.id)) == 1


def no_zone(name: str) -> None:
    """Stand for a time zone that an update has taken away."""
    raise recurrence.RecurrenceFault("time_zone", "is gone")


async def test_a_paused_schedule_fires_not_and_makes_up_for_nothing(driver: Driver) -> None:
    schedule_id = await create(driver, overlap=Overlap.ALLOW, catch_up_ms=10**9)
    paused = await driver.do(s.PauseSchedule(schedule_id))
    assert paused.schedule is not None
    assert (paused.schedule.paused, paused.schedule.next_ms) == (True, None)
    driver.now += 5 * MINUTE_MS + 1
    await fire(driver)
    await driver.do(s.PauseSchedule(schedule_id, resume=True))
    await driver.do(s.PauseSchedule(schedule_id, resume=True))
    await fire(driver)
    assert await made(driver, schedule_id) == []
    driver.now += MINUTE_MS
    await driver.do(s.PauseSchedule(schedule_id, resume=True))
    await fire(driver)
    assert await minutes(driver, schedule_id) == [6]


# -- overlap ------------------------------------------------------------------------------------------------


async def test_skip_makes_nothing_until_the_earlier_task_has_ended(driver: Driver) -> None:
    schedule_id = await create(driver)
    for _ in range(3):
        driver.now += MINUTE_MS
        await fire(driver)
    (task,) = await made(driver, schedule_id)
    await driver.do(d.CancelTask(task.id))
    driver.now += MINUTE_MS
    await fire(driver)
    assert await minutes(driver, schedule_id) == [1, 4]
    schedule = await read(driver, schedule_id)
    assert (schedule.fired, schedule.skipped) == (2, 2)


async def test_queue_makes_one_more_as_soon_as_the_earlier_task_has_ended(driver: Driver) -> None:
    schedule_id = await create(driver, overlap=Overlap.QUEUE)
    for _ in range(4):
        driver.now += MINUTE_MS
        await fire(driver)
    (task,) = await made(driver, schedule_id)
    await driver.do(d.CancelTask(task.id))
    await fire(driver)
    await fire(driver)
    assert await minutes(driver, schedule_id) == [1, 2]
    schedule = await read(driver, schedule_id)
    assert (schedule.fired, schedule.skipped, schedule.waiting_ms) == (2, 2, None)


async def test_cancel_stops_the_earlier_task_and_its_children(driver: Driver) -> None:
    schedule_id = await create(driver, overlap=Overlap.CANCEL)
    driver.now += MINUTE_MS
    await fire(driver)
    await driver.runner()
    (first,) = await made(driver, schedule_id)
    await driver.claim()
    child = await driver.spawn(first.id)
    driver.now += MINUTE_MS
    await fire(driver)
    heads = {head.task_id: head for head in driver.news.heads}
    assert heads[first.id].cancel_requested
    assert (await driver.task(first.id)).state is State.WORKING  # its runner is asked
    driver.now += MINUTE_MS
    await fire(driver)
    await driver.do(driver.ends(first.id, State.CANCELED))
    tasks = await made(driver, schedule_id)
    assert [task.state for task in tasks] == [State.CANCELED, State.CANCELED, State.SUBMITTED]
    assert await driver.said(tasks[1].id) == ["SUBMITTED", "CANCELED"]
    assert (await driver.task(child)).state is State.CANCELED
    assert await minutes(driver, schedule_id) == [1, 2, 3]


async def test_tasks_of_others_do_not_count_as_overlap(driver: Driver) -> None:
    mine, other = await create(driver), await create(driver, interval_ms=2 * MINUTE_MS)
    await driver.create()
    driver.now += 2 * MINUTE_MS
    await fire(driver)
    assert await minutes(driver, other) == [2]
    assert len(await made(driver, mine)) == 1


# -- out of turn --------------------------------------------------------------------------------------------


async def test_run_now_fires_whatever_the_policy_and_also_while_paused(driver: Driver) -> None:
    schedule_id = await create(driver, labels={"team": "a"})
    driver.now += MINUTE_MS
    await fire(driver)
    before = await read(driver, schedule_id)
    await driver.do(s.PauseSchedule(schedule_id))
    outcome = await driver.do(s.FireSchedule(schedule_id, task_id := new_id()))
    assert outcome.task is not None
    assert (outcome.task.id, outcome.task.schedule_id) == (task_id, schedule_id)
    assert not outcome.existed
    assert len(await made(driver, schedule_id)) == 2
    after = await read(driver, schedule_id)
    assert (after.fired, after.last_task_id, after.last_ms) == (2, task_id, before.last_ms)
    assert driver.news.ready_agents == {"echo"}


async def test_run_now_with_one_request_id_is_one_task(driver: Driver) -> None:
    schedule_id, other = await create(driver), await create(driver)
    first = await driver.do(s.FireSchedule(schedule_id, new_id(), "r"))
    again, twin = await driver.group(*(s.FireSchedule(schedule_id, new_id(), "r") for _ in range(2)))
    for outcome in (again, twin):
        assert not isinstance(outcome, MeshError)
        assert (outcome.existed, outcome.task_id) == (True, first.task_id)
        assert outcome.task is not None
        assert outcome.task.id == first.task_id
    assert not (await driver.do(s.FireSchedule(other, new_id(), "r"))).existed
    assert (await read(driver, schedule_id)).fired == 1


async def test_a_schedule_made_run_paused_and_deleted_in_one_batch_leaves_its_task(driver: Driver) -> None:
    change = new()
    schedule_id = change.schedule.id
    outcomes = await driver.group(
        change, s.FireSchedule(schedule_id, new_id()), s.PauseSchedule(schedule_id), s.DeleteSchedule(schedule_id)
    )
    assert [type(outcome) for outcome in outcomes] == [d.Outcome] * 4
    assert len(await made(driver, schedule_id)) == 1
    with pytest.raises(NotFound):
        await read(driver, schedule_id)


# -- several, and again -------------------------------------------------------------------------------------


async def test_schedules_outlive_the_process(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    async with sqlite(request, tmp_path) as store:
        driver = Driver(store)
        schedule_id = await create(driver, overlap=Overlap.ALLOW)
        driver.now += MINUTE_MS
        await fire(driver)
        now = driver.now
    async with sqlite(request, tmp_path) as store:
        driver = Driver(store)
        driver.now = now
        await fire(driver)
        driver.now += MINUTE_MS
        await fire(driver)
        assert await minutes(driver, schedule_id) == [1, 2]


@pytest.fixture
async def two(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Driver, Driver]]:
    """Two storage processes' stores on one PostgreSQL database."""
    async with postgres(request, tmp_path) as one, postgres(request, tmp_path) as other:
        yield Driver(one), Driver(other)


async def test_of_two_storages_on_one_database_one_makes_each_firing(two: tuple[Driver, Driver]) -> None:
    one, other = two
    ids = [await create(one, overlap=Overlap.ALLOW, catch_up_ms=10**9, interval_ms=1000) for _ in range(12)]
    for _ in range(15):
        one.now = other.now = one.now + 700
        await asyncio.gather(one.store.fire(one.now), other.store.fire(other.now))
    await fire(one)
    due = [START_MS + 1000 * number for number in range(1, 11)]
    for schedule_id in ids:
        assert [due_of(task) for task in await made(other, schedule_id)] == due
        assert (await read(one, schedule_id)).fired == len(due)


async def test_commits_and_firings_of_two_storages_do_not_lose_each_other(two: tuple[Driver, Driver]) -> None:
    one, other = two
    await one.runner(RUNNER, ttl_ms=10**9)
    ids = [await create(one, overlap=Overlap.CANCEL, interval_ms=1000) for _ in range(6)]
    for _ in range(12):
        one.now = other.now = one.now + 1000
        await asyncio.gather(
            one.store.fire(one.now),
            other.store.fire(other.now),
            one.group(*(s.FireSchedule(schedule_id, new_id()) for schedule_id in ids)),
            other.claim(3),
        )
    await fire(one)
    for schedule_id in ids:
        schedule, tasks = await read(one, schedule_id), await made(one, schedule_id)
        assert schedule.fired == len(tasks)
        assert schedule.fired + schedule.skipped + schedule.missed == 12 + 12
        assert len([task for task in tasks if task.cancel_ms is None]) >= 1


async def test_many_creates_with_one_request_id_on_two_storages_are_one_schedule(two: tuple[Driver, Driver]) -> None:
    one, other = two
    made_by = [driver.do(new(request_id="r", request_hash=b"h")) for driver in (one, other) for _ in range(8)]
    outcomes = await asyncio.gather(*made_by)
    assert len({outcome.schedule.id for outcome in outcomes if outcome.schedule}) == 1
    assert sum(not outcome.existed for outcome in outcomes) == 1
