"""Who gets the slots: turns between tenants by weight, priority first, and bounds on what runs at once."""

from collections import Counter

import pytest

from agentmesh_storage import domain as d
from tests.contract.task_store_driver import RUNNER, START_MS, Driver


async def test_tenants_that_wait_take_turns_however_much_one_of_them_waits_for(driver: Driver) -> None:
    await driver.runner()
    for _ in range(20):
        await driver.create(tenant="loud")
    for _ in range(2):
        await driver.create(tenant="quiet")
    claimed = await driver.claim(4)
    assert Counter(c.task.tenant for c in claimed) == {"loud": 2, "quiet": 2}


async def test_turns_go_on_from_claim_to_claim(driver: Driver) -> None:
    await driver.runner()
    for tenant in ("a", "b", "c"):
        for _ in range(4):
            await driver.create(tenant=tenant)
    order = [(await driver.claim(1))[0].task.tenant for _ in range(6)]
    assert order == ["a", "b", "c", "a", "b", "c"]


async def test_a_heavier_tenant_gets_its_weight(driver: Driver) -> None:
    await driver.runner()
    for tenant in ("heavy", "light"):
        for _ in range(12):
            await driver.create(tenant=tenant)
    one_by_one = Counter([(await driver.claim(1))[0].task.tenant for _ in range(8)])
    assert one_by_one == {"heavy": 6, "light": 2}
    assert Counter(c.task.tenant for c in await driver.claim(4)) == {"heavy": 3, "light": 1}


async def test_priority_goes_before_turns_and_age_decides_within_a_tenant(driver: Driver) -> None:
    await driver.runner()
    late = await driver.create(tenant="a", priority=5)
    urgent = [await driver.create(tenant="b", priority=9) for _ in range(2)]
    driver.now += 10
    later = await driver.create(tenant="a", priority=5)
    claimed = [c.task.id for c in await driver.claim(4)]
    assert claimed == [*sorted(urgent), late, later]


async def test_a_task_that_is_not_due_takes_no_turn(driver: Driver) -> None:
    await driver.runner()
    await driver.create(tenant="early", ready_ms=START_MS + 1000)
    await driver.create(tenant="now")
    assert [c.task.tenant for c in await driver.claim(2)] == ["now"]
    driver.now += 1000
    assert [c.task.tenant for c in await driver.claim(2)] == ["early"]


async def test_a_tenants_bound_holds_over_claims_and_frees_with_the_end(driver: Driver) -> None:
    await driver.runner()
    for _ in range(4):
        await driver.create(tenant="narrow")
    claimed = await driver.claim(4)
    assert len(claimed) == 2
    assert await driver.claim(4) == []
    await driver.do(driver.ends(claimed[0].task.id), tenant="narrow")
    assert len(await driver.claim(4)) == 1


async def test_an_agents_bound_holds_for_all_tenants_together(driver: Driver) -> None:
    await driver.runner()
    for tenant in ("a", "b"):
        await driver.create(tenant=tenant, agent="rare")
    assert len(await driver.claim(4, agent="rare")) == 1
    assert await driver.claim(4, agent="rare") == []


async def test_a_labels_bound_holds_by_value_and_does_not_hold_up_others(driver: Driver) -> None:
    await driver.runner()
    for _ in range(30):
        await driver.create(labels={"project": "x"})
    other = await driver.create(labels={"project": "y"})
    free = await driver.create(labels={"colour": "red"})
    claimed = await driver.claim(8)
    assert Counter(c.task.limited_by for c in claimed) == {"project=x": 1, "project=y": 1, "": 1}
    assert {other, free} < {c.task.id for c in claimed}


@pytest.mark.parametrize("fields", [{"tenant": "narrow"}, {"agent": "rare"}, {"labels": {"project": "x"}}], ids=str)
async def test_a_bounded_task_is_not_born_claimed_because_only_claims_count(
    driver: Driver, fields: dict[str, object]
) -> None:
    await driver.runner()
    task = await driver.create(claim=RUNNER, **fields)
    tenant = str(fields.get("tenant", "acme"))
    assert (await driver.task(task, tenant)).state is d.State.SUBMITTED


async def test_offers_of_several_runners_get_different_tasks(driver: Driver) -> None:
    runners = [await driver.runner(f"runner-{n}~a") for n in range(3)]
    made = {await driver.create() for _ in range(6)}
    offers = [d.Offer("echo", "1", runner, 2, "router-1") for runner in runners]
    claimed, _ = await driver.store.claim(offers, driver.now)
    assert {c.task.id for c in claimed} == made
    assert Counter(c.task.incarnation for c in claimed) == dict.fromkeys(runners, 2)
    assert {c.task.router for c in claimed} == {"router-1"}
