"""What is forgotten in time, and what is not: logs, then tasks with all that belongs to them, and request_ids."""

import pytest

from agentmesh.kit.errors import NotFound, OutOfRange
from agentmesh.kit.ids import new_id
from agentmesh_storage import domain as d
from agentmesh_storage.ports import Pruned, Retention
from tests.contract.task_store_driver import RUNNER, Driver

KEPT = Retention(events_ms=1_000, tasks_ms=10_000, request_ids_ms=500, batch=3)


async def ended(driver: Driver, **fields: object) -> str:
    task = await driver.started(**fields)
    await driver.do(driver.says(task, "a", "b"))
    await driver.do(driver.step(task, "s", offset=2))
    await driver.do(driver.ends(task, offset=3))
    return task


async def prune(driver: Driver, after_ms: int) -> Pruned:
    driver.now += after_ms
    return await driver.store.prune(driver.now, KEPT)


async def test_a_pruned_log_says_where_history_begins_and_the_task_stays(driver: Driver) -> None:
    task = await ended(driver)
    last = (await driver.task(task)).last_sequence
    pruned = await prune(driver, 1_001)
    assert (pruned.logs, pruned.tasks) == (1, 0)
    for after in (0, last - 1):
        with pytest.raises(OutOfRange) as refused:
            await driver.store.read_chunks("acme", task, after, 1 << 20)
        assert refused.value.reason == "HISTORY_PRUNED"
        assert refused.value.metadata["oldest_sequence"] == str(last + 1)
    assert await driver.store.read_chunks("acme", task, last, 1 << 20) == ([], last, d.State.COMPLETED)
    assert await driver.store.read_steps("acme", task, -(2**62), 1 << 20) == []


async def test_what_has_not_ended_is_never_pruned(driver: Driver) -> None:
    task = await driver.started()
    await driver.do(driver.says(task, "a"))
    assert await prune(driver, 10**9) == Pruned()
    assert (await driver.said(task))[-1] == "a"


async def test_a_pruned_task_takes_its_labels_and_artifacts_along(driver: Driver) -> None:
    task = await ended(driver, labels={"colour": "red"})
    artifact = d.Artifact(new_id(), "acme", task, "a.txt", "text/plain", 1, "00", driver.now, True)
    await driver.store.add_artifact(artifact)
    pruned = await prune(driver, 10_001)
    assert (pruned.tasks, pruned.artifact_ids) == (1, [artifact.id])
    with pytest.raises(NotFound):
        await driver.task(task)
    with pytest.raises(NotFound):
        await driver.store.get_artifact("acme", artifact.id)
    page = await driver.store.list_tasks(d.TaskFilter("acme", 10, label=("colour", "red")))
    assert page.tasks == []


async def test_a_child_is_kept_while_its_parent_may_ask_for_it_again(driver: Driver) -> None:
    parent = await driver.started()
    child = await driver.spawn(parent, claim=RUNNER)
    await driver.do(driver.ends(child))
    assert (await prune(driver, 10_001)).tasks == 0
    await driver.do(driver.ends(parent))
    assert (await prune(driver, 10_001)).tasks == 2


async def test_a_batch_is_small_and_says_that_there_is_more(driver: Driver) -> None:
    for _ in range(4):
        await ended(driver)
    first = await prune(driver, 1_001)
    assert (first.logs, first.more) == (3, True)
    second = await prune(driver, 0)
    assert (second.logs, second.more) == (1, False)


async def test_a_request_id_may_be_used_again_once_it_is_forgotten(driver: Driver) -> None:
    task = await ended(driver, request_id="r")
    again = await driver.do(driver.new(request_id="r"))
    assert (again.existed, again.task_id) == (True, task)
    assert (await prune(driver, 501)).requests == 1
    anew = await driver.do(driver.new(request_id="r"))
    assert not anew.existed
    assert anew.task_id != task


async def test_leases_that_ended_long_ago_are_forgotten(driver: Driver) -> None:
    task = await driver.started()
    await driver.do(d.FreeRunner(RUNNER))
    await prune(driver, 60_000)
    await driver.runner("runner-1~b")
    assert [c.task.id for c in await driver.claim(incarnation="runner-1~b")] == [task]
