"""What every TaskStore holds about runners, leases, order and time."""

import pytest
from google.rpc import status_pb2

from agentmesh.kit.errors import StaleAttempt, from_status
from agentmesh.kit.ids import new_id
from agentmesh_storage import domain as d
from tests.contract.task_store_driver import LEASE_MS, MAX_LOSSES, RUNNER, START_MS, Driver

State = d.State
SECOND_LIFE = "runner-1~b"


def reason_of(error: bytes) -> str:
    return from_status(status_pb2.Status.FromString(error)).reason


# -- leases -------------------------------------------------------------------------------------------------


async def test_a_task_of_an_expired_lease_is_ready_again_and_keeps_its_retries(driver: Driver) -> None:
    task = await driver.started()
    driver.now += LEASE_MS + 1
    news = await driver.sweep()
    assert (news.leases_lost, news.ready_agents) == (1, {"echo"})
    stored = await driver.task(task)
    assert (stored.state, stored.failures, stored.losses) == (State.SUBMITTED, 0, 1)
    await driver.runner(SECOND_LIFE)
    (claimed,) = await driver.claim(incarnation=SECOND_LIFE)
    assert (claimed.task.attempt, claimed.task.incarnation) == (2, SECOND_LIFE)


async def test_a_lease_is_swept_once_and_never_before_it_is_over(driver: Driver) -> None:
    task = await driver.started()
    driver.now += LEASE_MS
    assert (await driver.sweep()).leases_lost == 0
    driver.now += 1
    assert (await driver.sweep(expire_leases=False)).leases_lost == 0
    assert (await driver.task(task)).state is State.WORKING
    assert (await driver.sweep()).leases_lost == 1
    assert (await driver.sweep()).leases_lost == 0


async def test_a_renewal_keeps_the_lease_and_a_lost_one_is_not_renewed(driver: Driver) -> None:
    task = await driver.started()
    driver.now += LEASE_MS - 1
    await driver.runner()
    driver.now += LEASE_MS - 1
    assert (await driver.sweep()).leases_lost == 0
    assert (await driver.task(task)).state is State.WORKING
    driver.now += 2
    await driver.sweep()
    with pytest.raises(StaleAttempt) as refused:
        await driver.runner()
    assert refused.value.reason == "LEASE_LOST"


async def test_a_new_incarnation_of_a_name_frees_the_older_and_only_that(driver: Driver) -> None:
    task, others = await driver.started(), await driver.started("runner-2~a")
    await driver.runner(SECOND_LIFE)
    assert (await driver.task(task)).state is State.SUBMITTED
    assert (await driver.task(others)).state is State.WORKING
    with pytest.raises(StaleAttempt):
        await driver.runner()


async def test_what_a_runner_gets_in_the_transaction_that_frees_it_is_ready_again(driver: Driver) -> None:
    await driver.runner()
    outcomes = await driver.group(driver.new(RUNNER), d.FreeRunner(RUNNER))
    assert isinstance(outcomes[0], d.Outcome)
    assert (await driver.task(outcomes[0].task_id)).state is State.SUBMITTED


async def test_nothing_is_claimed_for_a_runner_without_a_living_lease(driver: Driver) -> None:
    await driver.create()
    assert await driver.claim() == []
    await driver.runner()
    await driver.do(d.FreeRunner(RUNNER))
    assert await driver.claim() == []
    await driver.runner(SECOND_LIFE)
    assert len(await driver.claim(incarnation=SECOND_LIFE)) == 1


async def test_a_task_that_loses_its_runner_too_often_is_exhausted(driver: Driver) -> None:
    task = await driver.create()
    for life in range(MAX_LOSSES + 1):
        driver.now += 60_000
        incarnation = await driver.runner(f"runner-1~{life}")
        assert len(await driver.claim(incarnation=incarnation)) == 1
        await driver.do(d.FreeRunner(incarnation))
    stored = await driver.task(task)
    assert (stored.state, stored.attempt, stored.failures) == (State.FAILED, MAX_LOSSES + 1, 0)
    assert reason_of(stored.error) == "ATTEMPTS_EXHAUSTED"
    assert (await driver.said(task)).count("FAILED") == 1


async def test_only_repeated_losses_wait_before_the_next_attempt(driver: Driver) -> None:
    task = await driver.started()
    await driver.do(d.FreeRunner(RUNNER))
    assert (await driver.task(task)).ready_ms == driver.now
    await driver.runner(SECOND_LIFE)
    await driver.claim(incarnation=SECOND_LIFE)
    await driver.do(d.FreeRunner(SECOND_LIFE))
    ready_ms = (await driver.task(task)).ready_ms
    assert ready_ms is not None
    assert ready_ms > driver.now


async def test_tasks_that_a_runner_does_not_know_are_handed_back_at_no_cost(driver: Driver) -> None:
    kept, lost = await driver.started(), await driver.started()
    for _ in range(MAX_LOSSES + 2):
        await driver.do(d.SyncRunner(RUNNER, frozenset({kept})))
        assert (await driver.task(lost)).ready_ms == driver.now
        assert len(await driver.claim()) == 1
    stored = await driver.task(lost)
    assert (stored.state, stored.losses, stored.failures) == (State.WORKING, 0, 0)
    assert (await driver.task(kept)).attempt == 1


async def test_a_claim_is_handed_back_also_when_it_shares_the_transaction_with_the_sync(driver: Driver) -> None:
    await driver.runner()
    outcomes = await driver.group(driver.new(RUNNER), d.SyncRunner(RUNNER, frozenset()))
    assert isinstance(outcomes[0], d.Outcome)
    assert (await driver.task(outcomes[0].task_id)).state is State.SUBMITTED


# -- order --------------------------------------------------------------------------------------------------


async def test_ready_tasks_are_claimed_by_priority_then_by_age(driver: Driver) -> None:
    await driver.runner()
    order = []
    for priority in (5, 1, 10, 5):
        order.append((priority, await driver.create(priority=priority)))
        driver.now += 1
    expected = [order[2][1], order[0][1], order[3][1], order[1][1]]
    assert [(await driver.claim())[0].task.id for _ in order] == expected


async def test_a_task_goes_to_the_version_it_ran_on_before_its_equals(driver: Driver) -> None:
    await driver.runner()
    older = await driver.create()
    driver.now += 1
    newer = await driver.create()
    for version in ("2", "1"):
        await driver.store.claim([d.Offer("echo", version, RUNNER, 1)], driver.now)
    await driver.do(d.SyncRunner(RUNNER, frozenset()))
    assert [(await driver.claim())[0].task.id for _ in range(2)] == [newer, older]


async def test_a_claim_takes_no_more_than_the_slots_and_only_of_its_agent(driver: Driver) -> None:
    await driver.runner()
    await driver.create(agent="other")
    for _ in range(3):
        await driver.create()
    assert len(await driver.claim(2)) == 2
    assert len(await driver.claim(2)) == 1
    assert await driver.claim(2) == []


async def test_one_claim_serves_every_runner_that_offers_and_no_task_twice(driver: Driver) -> None:
    tasks = {await driver.create() for _ in range(5)}
    offers = [d.Offer("echo", "1", await driver.runner(f"runner-{n}~a"), 2) for n in range(3)]
    claimed, _ = await driver.store.claim(offers, driver.now)
    assert [claim.task.incarnation for claim in claimed] == [f"runner-{n}~a" for n in (0, 0, 1, 1, 2)]
    assert {claim.task.id for claim in claimed} == tasks


async def test_a_claim_gives_no_more_specs_than_one_message_holds(driver: Driver) -> None:
    await driver.runner()
    tasks = [await driver.create(spec=bytes(600_000)) for _ in range(5)]
    counts = [len(await driver.claim(10)) for _ in range(3)]
    assert counts == [2, 2, 1]
    assert sum(counts) == len(tasks)


# -- time ---------------------------------------------------------------------------------------------------


async def test_a_start_time_in_the_future_is_not_claimed_early_and_announced_in_time(driver: Driver) -> None:
    await driver.runner()
    await driver.do(d.AnnounceAgents([("echo", b"")]))
    await driver.create(ready_ms=driver.now + 1000)
    assert driver.news.ready_agents == set()
    driver.now += 999
    assert (await driver.sweep()).ready_agents == set()
    assert await driver.claim() == []
    driver.now += 1
    assert (await driver.sweep()).ready_agents == {"echo"}
    assert len(await driver.claim()) == 1


async def test_a_queue_timeout_ends_a_task_that_waits_and_not_one_that_runs(driver: Driver) -> None:
    waiting = await driver.create(queue_timeout_ms=1000)
    running = await driver.started(queue_timeout_ms=1000)
    driver.now += 1001
    await driver.sweep()
    stored = await driver.task(waiting)
    assert (stored.state, reason_of(stored.error)) == (State.FAILED, "QUEUE_TIMEOUT")
    assert (await driver.task(running)).state is State.WORKING


async def test_a_queue_timeout_counts_from_the_start_time(driver: Driver) -> None:
    task = await driver.create(queue_timeout_ms=1000, ready_ms=driver.now + 5000)
    driver.now += 6000
    await driver.sweep()
    assert (await driver.task(task)).state is State.SUBMITTED
    driver.now += 1
    await driver.sweep()
    assert (await driver.task(task)).state is State.FAILED


async def test_overdue_work_is_dropped_when_it_is_claimed(driver: Driver) -> None:
    await driver.runner()
    task = await driver.create(queue_timeout_ms=1000)
    driver.now += 1001
    assert await driver.claim() == []
    assert (await driver.task(task)).state is State.FAILED


@pytest.mark.parametrize("where", ["parked", "waiting for the next attempt", "working on after the grace"])
async def test_the_time_of_a_task_runs_on_wherever_it_is(driver: Driver, where: str) -> None:
    task = await driver.started(timeout_ms=10_000)
    if where == "parked":
        await driver.do(driver.parks(task, await driver.create()))
    elif where == "waiting for the next attempt":
        await driver.do(driver.ends(task, State.SUBMITTED, failure=True))
    driver.now += 10_001 if where != "working on after the grace" else 15_001
    await driver.sweep(expire_leases=False)
    stored = await driver.task(task)
    assert (stored.state, reason_of(stored.error)) == (State.FAILED, "TASK_TIMEOUT")
    assert (await driver.said(task)).count("FAILED") == 1


async def test_the_time_of_a_task_counts_from_its_first_start(driver: Driver) -> None:
    await driver.runner(ttl_ms=10**9)
    task = await driver.create(timeout_ms=10_000)
    driver.now += 60_000
    (claimed,) = await driver.claim()
    assert claimed.task.deadline_ms == START_MS + 70_000
    await driver.do(driver.ends(task, State.SUBMITTED))
    driver.now += 5_000
    (claimed,) = await driver.claim()
    assert claimed.task.deadline_ms == START_MS + 70_000


async def test_a_failed_attempt_waits_as_long_as_it_was_told(driver: Driver) -> None:
    task = await driver.started()
    await driver.do(driver.ends(task, State.SUBMITTED, failure=True, ready_ms=driver.now + 1000))
    assert (await driver.task(task)).failures == 1
    driver.now += 999
    assert await driver.claim() == []
    driver.now += 1
    assert len(await driver.claim()) == 1


# -- news ---------------------------------------------------------------------------------------------------


async def test_news_are_credited_to_a_router_only_if_all_of_them_are_its_own(driver: Driver) -> None:
    mine, both = await driver.started(), await driver.started()
    await driver.group(
        d.Mutation("acme", driver.says(mine, "a"), "router-1"),
        d.Mutation("acme", driver.says(both, "b"), "router-1"),
        d.Mutation("acme", d.CancelTask(both), "router-2"),
    )
    origins = {head.task_id: head.origin for head in driver.news.heads}
    assert origins == {mine: "router-1", both: ""}


async def test_a_claim_is_news_for_every_router_but_the_one_that_claims(driver: Driver) -> None:
    await driver.runner()
    task_id = await driver.create()
    (claimed,), news = await driver.store.claim([d.Offer("echo", "1", RUNNER, 1, "router-1")], driver.now)
    assert claimed.task.id == task_id
    assert [(head.task_id, head.origin) for head in news.heads] == [(task_id, "router-1")]


async def test_a_child_that_storage_cancels_is_news_also_for_the_router_that_speaks_for_it(driver: Driver) -> None:
    parent = await driver.started()
    child = await driver.spawn(parent, claim=RUNNER)
    await driver.group(
        d.Mutation("acme", driver.says(child, "a"), "router-1"),
        d.Mutation("acme", driver.ends(parent, State.FAILED), "router-1"),
    )
    (head,) = [head for head in driver.news.heads if head.task_id == child]
    assert (head.cancel_requested, head.origin) == (True, "")


async def test_agents_are_kept_by_name_as_they_were_last_announced(driver: Driver) -> None:
    await driver.do(d.AnnounceAgents([("b", b"1"), ("a", b"1")]))
    await driver.do(d.AnnounceAgents([("b", b"2")]))
    assert await driver.store.list_agents() == [b"1", b"2"]


async def test_freeing_an_unknown_runner_or_one_twice_does_nothing(driver: Driver) -> None:
    task = await driver.started()
    await driver.do(d.FreeRunner(new_id()))
    assert (await driver.task(task)).state is State.WORKING
    await driver.do(d.FreeRunner(RUNNER))
    await driver.do(d.FreeRunner(RUNNER))
    assert (await driver.task(task)).losses == 1


async def test_a_sync_leaves_alone_what_was_claimed_after_it_and_what_a_living_router_has(driver: Driver) -> None:
    await driver.runner()
    await driver.runner("router-2")
    sync = d.Mutation("", d.SyncRunner(RUNNER, frozenset()), "router-1")
    outcomes = await driver.group(sync, d.Mutation("acme", driver.new(RUNNER), "router-1"))
    assert isinstance(outcomes[1], d.Outcome)
    other = await driver.group(d.Mutation("acme", driver.new(RUNNER), "router-2"))
    assert isinstance(other[0], d.Outcome)
    assert (await driver.task(outcomes[1].task_id)).state is State.WORKING
    await driver.group(sync)
    assert (await driver.task(outcomes[1].task_id)).state is State.SUBMITTED
    assert (await driver.task(other[0].task_id)).state is State.WORKING


async def test_what_a_dead_router_had_claimed_is_handed_back_once_its_runners_had_time_to_go_over(
    driver: Driver,
) -> None:
    await driver.runner(ttl_ms=60_000)
    await driver.runner("router@host:1~a", ttl_ms=1_000)
    (outcome,) = await driver.group(d.Mutation("acme", driver.new(RUNNER), "router@host:1~a"))
    assert isinstance(outcome, d.Outcome)
    sync = d.Mutation("", d.SyncRunner(RUNNER, frozenset()), "router-2")
    driver.now += 5_999
    await driver.group(sync)
    assert (await driver.task(outcome.task_id)).state is State.WORKING
    driver.now += 2
    await driver.group(sync)
    task = await driver.task(outcome.task_id)
    assert (task.state, task.losses, task.failures) == (State.SUBMITTED, 0, 0)


async def test_a_router_that_adopts_an_attempt_answers_for_it(driver: Driver) -> None:
    await driver.runner()
    (outcome,) = await driver.group(d.Mutation("acme", driver.new(RUNNER), "router-1"))
    assert isinstance(outcome, d.Outcome)
    adopt = d.AdoptAttempt(outcome.task_id, 1, RUNNER)
    await driver.group(d.Mutation("acme", adopt, "router-2"))
    assert (await driver.task(outcome.task_id)).router == "router-2"


async def test_a_router_that_was_frozen_past_its_lease_goes_on(driver: Driver) -> None:
    await driver.runner("router@host:1~a")
    driver.now += LEASE_MS + 1
    await driver.sweep()
    await driver.runner("router@host:1~a")
