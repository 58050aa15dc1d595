"""What every TaskStore holds about parents and children."""

import pytest

from agentmesh.api.task.v1 import events_pb2 as pb
from agentmesh.kit.ids import new_id
from agentmesh_storage import domain as d
from tests.contract.task_store_driver import RUNNER, Driver

State = d.State


async def children_of(driver: Driver, task: str) -> list[tuple[str, str]]:
    """Return (child, state) of each child_task event."""
    events = [event.child_task for _, _, event in await driver.log(task) if event.HasField("child_task")]
    return [(e.task_id, pb.TaskState.Name(e.state).removeprefix("TASK_STATE_")) for e in events]


async def test_a_replayed_spawn_is_the_same_child_also_within_one_transaction(driver: Driver) -> None:
    parent = await driver.started()
    outcomes = await driver.group(driver.spawns(parent, "s1"), driver.spawns(parent, "s1"), driver.spawns(parent, "s2"))
    first, again, other = (outcome.task_id for outcome in outcomes if isinstance(outcome, d.Outcome))
    assert first == again != other
    await driver.do(driver.ends(parent, State.SUBMITTED))
    await driver.claim(3)
    outcome = await driver.do(driver.spawns(parent, "s1", attempt=2))
    assert (outcome.task_id, outcome.existed) == (first, True)
    assert [child for child, _ in await children_of(driver, parent)] == [first, other]


async def test_a_spawn_and_its_parents_event_are_one_transaction(driver: Driver) -> None:
    parent = await driver.started()
    outcome = await driver.do(driver.spawns(parent, claim=RUNNER))
    assert (outcome.claimed, outcome.parent_id) == (True, parent)
    assert outcome.task is not None
    assert outcome.task.parent_id == parent
    assert await children_of(driver, parent) == [(outcome.task_id, "WORKING")]


@pytest.mark.parametrize("state", [State.COMPLETED, State.FAILED, State.CANCELED, State.REJECTED])
async def test_a_childs_end_wakes_a_parked_parent(driver: Driver, state: State) -> None:
    parent = await driver.started()
    child = await driver.spawn(parent, claim=RUNNER)
    await driver.do(driver.parks(parent, child))
    assert await driver.claim() == []
    outcome = await driver.do(driver.ends(child, state))
    assert outcome.parent_id == parent
    assert (await children_of(driver, parent))[-1] == (child, state.name)
    (claimed,) = await driver.claim()
    assert (claimed.task.id, claimed.task.attempt) == (parent, 2)


async def test_a_parent_that_parks_after_its_childs_end_is_ready_at_once(driver: Driver) -> None:
    parent = await driver.started()
    first, second = await driver.spawn(parent, "s1", claim=RUNNER), await driver.spawn(parent, "s2", claim=RUNNER)
    await driver.do(driver.ends(first))
    await driver.do(driver.parks(parent, second, first))
    assert [claim.task.id for claim in await driver.claim()] == [parent]
    assert (await driver.task(second)).state is State.WORKING


@pytest.mark.parametrize("parent_first", [True, False])
async def test_a_childs_end_and_the_parking_in_one_transaction_wake_the_parent(
    driver: Driver, parent_first: bool
) -> None:
    parent = await driver.started()
    child = await driver.spawn(parent, claim=RUNNER)
    changes = [driver.parks(parent, child), driver.ends(child)]
    await driver.group(*(changes if parent_first else changes[::-1]))
    assert [claim.task.id for claim in await driver.claim()] == [parent]


async def test_a_parent_that_waits_for_a_child_that_is_not_there_is_ready_at_once(driver: Driver) -> None:
    parent = await driver.started()
    await driver.do(driver.parks(parent, new_id()))
    assert len(await driver.claim()) == 1


async def test_children_and_grandchildren_of_a_task_that_ended_badly_are_canceled(driver: Driver) -> None:
    parent = await driver.started()
    child = await driver.spawn(parent, "s1", claim=RUNNER)
    waiting_child = await driver.spawn(parent, "s2")
    grandchild = await driver.spawn(child, "s1")
    await driver.do(driver.parks(child, grandchild))
    running_grandchild = await driver.spawn(parent, "s3", claim=RUNNER)
    await driver.do(driver.ends(parent, State.FAILED))
    states = {task: (await driver.task(task)).state for task in (child, waiting_child, grandchild)}
    assert set(states.values()) == {State.CANCELED}
    running = await driver.task(running_grandchild)
    assert (running.state, running.cancel_ms) == (State.WORKING, driver.now)  # asked: its runner has it


async def test_a_canceled_parent_that_still_runs_cancels_its_children_when_it_ends(driver: Driver) -> None:
    parent = await driver.started()
    child = await driver.spawn(parent)
    await driver.do(d.CancelTask(parent))
    assert (await driver.task(child)).state is State.SUBMITTED
    await driver.do(driver.ends(parent, State.CANCELED))
    assert (await driver.task(child)).state is State.CANCELED


async def test_a_child_spawned_in_the_transaction_that_ends_its_parent_is_canceled_too(driver: Driver) -> None:
    parent = await driver.started()
    outcomes = await driver.group(driver.spawns(parent), driver.ends(parent, State.FAILED))
    assert isinstance(outcomes[0], d.Outcome)
    assert (await driver.task(outcomes[0].task_id)).state is State.CANCELED


async def test_children_of_a_completed_parent_go_on(driver: Driver) -> None:
    parent = await driver.started()
    child = await driver.spawn(parent)
    await driver.do(driver.ends(parent))
    assert (await driver.task(child)).state is State.SUBMITTED
    assert len(await driver.claim()) == 1
    await driver.do(driver.ends(child))
    assert (await driver.said(parent))[-1] == "COMPLETED"  # nothing after the terminal event


@pytest.mark.parametrize("how", ["swept", "dropped at a claim", "handed back after a cancel"])
async def test_a_parent_is_woken_also_by_a_child_that_storage_ended(driver: Driver, how: str) -> None:
    parent = await driver.started()
    child = driver.spawns(parent, claim=RUNNER if how.startswith("handed") else "")
    child.child.queue_timeout_ms = 1000
    await driver.do(child)
    await driver.do(driver.parks(parent, child.child.task.id))
    driver.now += 1001
    if how == "swept":
        await driver.sweep(expire_leases=False)
    elif how == "dropped at a claim":
        assert await driver.claim() == []
    else:
        await driver.do(d.CancelTask(child.child.task.id))
        await driver.do(d.SyncRunner(RUNNER, frozenset()))
    assert (await driver.task(child.child.task.id)).state.terminal
    assert [claim.task.id for claim in await driver.claim()] == [parent]
