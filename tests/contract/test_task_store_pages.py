"""What every TaskStore holds about lists, journals and artifacts."""

from typing import Any

import pytest

from agentmesh.kit.errors import NotFound
from agentmesh.kit.ids import new_id
from agentmesh_storage import domain as d
from tests.contract.task_store_driver import RUNNER, START_MS, Driver, record

State = d.State


async def listed(driver: Driver, page_size: int = 100, **fields: Any) -> list[str]:
    """Read a list page by page."""
    ids: list[str] = []
    after = ""
    while True:
        page = await driver.store.list_tasks(
            d.TaskFilter(**{"tenant": "acme", "page_size": page_size, "after": after, **fields})
        )
        assert len(page.tasks) <= page_size
        ids.extend(task.id for task in page.tasks)
        if not page.next_after:
            return ids
        assert page.tasks
        after = page.next_after


# -- lists --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page_size", [1, 2, 3, 7, 8])
async def test_pages_hold_every_task_once_newest_first(driver: Driver, page_size: int) -> None:
    tasks = [await driver.create() for _ in range(7)]
    await driver.create(tenant="globex")
    assert await listed(driver, page_size) == sorted(tasks, reverse=True)


@pytest.mark.parametrize("page_size", [1, 2, 3, 7])
async def test_pages_by_end_hold_every_ended_task_once_also_those_that_ended_together(
    driver: Driver, page_size: int
) -> None:
    await driver.create()
    ended = [await driver.create() for _ in range(7)]
    for number, task in enumerate(ended):
        driver.now = START_MS + number // 3
        await driver.do(d.CancelTask(task))
    expected = sorted(ended, key=lambda task: (ended.index(task) // 3, task), reverse=True)
    assert await listed(driver, page_size, by_end=True) == expected


async def test_what_is_created_between_two_pages_doubles_nothing(driver: Driver) -> None:
    tasks = [await driver.create() for _ in range(4)]
    first = await driver.store.list_tasks(d.TaskFilter("acme", 2))
    await driver.create()
    second = await driver.store.list_tasks(d.TaskFilter("acme", 2, after=first.next_after))
    assert [task.id for task in (*first.tasks, *second.tasks)] == sorted(tasks, reverse=True)


async def test_a_page_holds_no_more_than_one_message(driver: Driver) -> None:
    tasks = [await driver.create(spec=bytes(900_000)) for _ in range(5)]
    page = await driver.store.list_tasks(d.TaskFilter("acme", 5))
    assert sum(len(task.spec) for task in page.tasks) < 3_000_000
    assert await listed(driver, 5) == sorted(tasks, reverse=True)


async def test_filters_are_all_held_at_once(driver: Driver) -> None:
    await driver.runner()
    plain = await driver.create(labels={"team": "red"}, context_id="c1")
    driver.now += 1000
    other = await driver.create(agent="other", labels={"team": "blue"}, context_id="c1")
    working = await driver.create(RUNNER, labels={"team": "red", "env": "test"})
    child = await driver.spawn(working)
    cases: list[tuple[dict[str, Any], set[str]]] = [
        ({}, {plain, other, working, child}),
        ({"states": (State.WORKING, State.FAILED)}, {working}),
        ({"agent": "other"}, {other}),
        ({"label": ("team", "red")}, {plain, working}),
        ({"label": ("team", "")}, set()),
        ({"label": ("team", "red"), "states": (State.SUBMITTED,)}, {plain}),
        ({"context_id": "c1"}, {plain, other}),
        ({"context_id": "c1", "agent": "echo"}, {plain}),
        ({"parent_id": working}, {child}),
        ({"created_after_ms": START_MS + 1000}, {other, working, child}),
        ({"created_before_ms": START_MS + 1000}, {plain}),
        ({"tenant": "globex"}, set()),
    ]
    for fields, expected in cases:
        assert set(await listed(driver, 1, **fields)) == expected, fields


# -- journals -----------------------------------------------------------------------------------------------


async def test_a_journal_is_read_in_pages_that_end_between_steps(driver: Driver) -> None:
    task = await driver.started()
    for number in range(5):
        await driver.do(driver.step(task, f"s{number}", offset=number))
    keys: list[str] = []
    after = -(2**62)
    while steps := await driver.store.read_steps("acme", task, after, 1):
        assert len(steps) == 1
        keys.extend(step.key for step in steps)
        after = steps[-1].sequence
    assert keys == [f"s{number}" for number in range(5)]


async def test_a_retry_inherits_the_journal_and_so_does_the_retry_of_a_retry(driver: Driver) -> None:
    old = await driver.started()
    await driver.do(driver.step(old, "s1"))
    await driver.do(driver.step(old, "s2", offset=1))
    await driver.do(driver.ends(old, State.FAILED, offset=2))
    retry = await driver.create(RUNNER, retry_of=old, inherit_journal=True)
    await driver.do(driver.step(retry, "s3"))
    await driver.do(driver.ends(retry, State.FAILED, offset=1))
    last = await driver.create(retry_of=retry, inherit_journal=True)
    plain = await driver.create(retry_of=retry)
    steps = await driver.store.read_steps("acme", last, -(2**62), 1 << 20)
    assert [step.key for step in steps] == ["s1", "s2", "s3"]
    assert all(step.sequence < 1 for step in steps)  # before anything that the new task says
    assert steps[0].record == record("s1")
    assert await driver.store.read_steps("acme", plain, -(2**62), 1 << 20) == []


async def test_steps_of_a_refused_append_are_not_kept(driver: Driver) -> None:
    task = await driver.started()
    await driver.group(driver.step(task, "gap", offset=3), driver.step(task, "stale", attempt=2))
    assert await driver.store.read_steps("acme", task, 0, 1 << 20) == []


# -- artifacts ----------------------------------------------------------------------------------------------


def artifact(task_id: str = "", *, tenant: str = "acme", create_ms: int = START_MS) -> d.Artifact:
    return d.Artifact(new_id(), tenant, task_id, "a.txt", "text/plain", 3, "00", create_ms, visible=not task_id)


async def test_a_tasks_artifact_is_visible_only_once_its_event_is_committed(driver: Driver) -> None:
    task = await driver.started()
    made = artifact(task)
    await driver.store.add_artifact(made)
    assert await driver.store.list_artifacts("acme", task, 10, "") == []
    await driver.group(driver.says(task, "stale", attempt=9, artifact_ids=[made.id]))
    assert await driver.store.list_artifacts("acme", task, 10, "") == []
    await driver.do(driver.says(task, "a", artifact_ids=[made.id]))
    assert [a.id for a in await driver.store.list_artifacts("acme", task, 10, "")] == [made.id]


async def test_artifacts_that_no_event_made_visible_are_forgotten_in_time(driver: Driver) -> None:
    task = await driver.started()
    old, young, upload = artifact(task), artifact(task, create_ms=START_MS + 10), artifact()
    shown = artifact(task)
    for made in (old, young, upload, shown):
        await driver.store.add_artifact(made)
    await driver.do(driver.says(task, "a", artifact_ids=[shown.id]))
    assert await driver.store.abandoned_artifacts(START_MS + 10) == [old.id]
    assert await driver.store.abandoned_artifacts(START_MS + 10) == []
    for kept in (young, upload, shown):
        assert (await driver.store.get_artifact("acme", kept.id)).id == kept.id


async def test_artifacts_are_paged_newest_first_and_belong_to_their_tenant(driver: Driver) -> None:
    mine = [artifact() for _ in range(3)]
    for made in (*mine, artifact(tenant="globex")):
        await driver.store.add_artifact(made)
    ids = sorted((a.id for a in mine), reverse=True)
    first = await driver.store.list_artifacts("acme", "", 2, "")
    rest = await driver.store.list_artifacts("acme", "", 2, first[-1].id)
    assert [a.id for a in (*first, *rest)] == ids
    with pytest.raises(NotFound):
        await driver.store.get_artifact("globex", ids[0])
    assert not await driver.store.delete_artifact("globex", ids[0])
    assert await driver.store.delete_artifact("acme", ids[0])
    with pytest.raises(NotFound):
        await driver.store.get_artifact("acme", ids[0])


async def test_a_store_that_is_opened_says_that_it_is_there(driver: Driver) -> None:
    assert await driver.store.ping()


async def test_the_task_that_waits_longest_is_found_whatever_its_priority(driver: Driver) -> None:
    assert await driver.store.oldest_waiting_ms() is None
    await driver.create(priority=-3)
    driver.now += 5_000
    await driver.create(priority=9)
    await driver.create(ready_ms=driver.now + 60_000)  # not ready yet
    assert await driver.store.oldest_waiting_ms() == START_MS
    await driver.runner()
    (first,) = await driver.claim()
    assert first.task.priority == 9
    assert await driver.store.oldest_waiting_ms() == START_MS


async def test_the_backlog_is_counted_by_tenant_up_to_a_limit(driver: Driver) -> None:
    for tenant in ("acme", "acme", "acme", "globex"):
        await driver.create(tenant=tenant)
    await driver.create(ready_ms=START_MS + 1)
    assert await driver.store.backlog(10) == {"acme": 3, "globex": 1}
    assert await driver.store.backlog(2) == {"acme": 2, "globex": 1}
