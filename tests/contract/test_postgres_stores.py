"""Several storage processes over one PostgreSQL, and everything that can happen to their connections to it."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from agentmesh.kit.clock import SystemClock
from agentmesh.kit.errors import InvalidRequest, MeshError, Unavailable
from agentmesh.kit.settings import Database
from agentmesh_storage import domain as d
from agentmesh_storage.adapters.postgres.clock import DatabaseClock
from agentmesh_storage.adapters.postgres.store import PostgresTaskStore, open_store
from tests.contract.task_store_driver import RULES, RUNNER, Driver, reasons
from tests.support.fault_proxy import FaultProxy
from tests.support.postgres import Postgres


async def opened(url: str, **settings: float) -> PostgresTaskStore:
    return await open_store(Database(url=url, create_tables=True, **settings), RULES)  # type: ignore[arg-type]


@pytest.fixture
async def stores(database_url: str) -> AsyncIterator[tuple[Driver, Driver]]:
    one, other = await asyncio.gather(opened(database_url), opened(database_url))
    yield Driver(one), Driver(other)
    await one.aclose()
    await other.aclose()


# -- two processes ------------------------------------------------------------------------------------------


async def test_parallel_submits_of_one_request_over_two_processes_are_one_task(stores: tuple[Driver, Driver]) -> None:
    made = await asyncio.gather(*(stores[n % 2].do(stores[0].new(request_id="r")) for n in range(64)))
    assert len({outcome.task_id for outcome in made}) == 1
    assert sum(not outcome.existed for outcome in made) == 1
    assert await stores[0].said(made[0].task_id) == ["SUBMITTED"]


async def test_no_task_is_claimed_twice_and_none_is_left(stores: tuple[Driver, Driver]) -> None:
    one, other = stores
    runners = [await one.runner(f"runner-{n}~a") for n in range(4)]
    made = {await one.create(tenant=f"t{n % 5}") for n in range(60)}
    got: list[str] = []

    async def claim(driver: Driver, runner: str) -> None:
        while claimed := await driver.claim(5, incarnation=runner):
            got.extend(c.task.id for c in claimed)

    for _ in range(2):  # a claim that met another one may have come back short
        await asyncio.gather(*(claim(driver, runner) for driver, runner in zip((one, other) * 2, runners, strict=True)))
    assert sorted(got) == sorted(made)


async def test_a_tenants_bound_holds_over_two_processes(stores: tuple[Driver, Driver]) -> None:
    await stores[0].runner()
    for _ in range(12):
        await stores[0].create(tenant="narrow")
    claimed = await asyncio.gather(*(stores[n % 2].claim(4) for n in range(8)))
    assert sum(map(len, claimed)) == 2


async def test_two_processes_that_append_to_one_task_never_share_a_sequence(stores: tuple[Driver, Driver]) -> None:
    task = await stores[0].started()
    outcomes = await asyncio.gather(
        *(stores[n % 2].group(stores[0].says(task, f"{n}", offset=n // 2)) for n in range(20))
    )
    taken = [o.first_sequence for (o,) in outcomes if isinstance(o, d.Outcome) and o.first_sequence]
    assert len(set(taken)) == len(taken)
    log = await stores[0].log(task)
    assert [sequence for sequence, _, _ in log] == list(range(1, len(log) + 1))


async def test_a_lease_that_one_process_frees_is_not_claimed_for_by_another(stores: tuple[Driver, Driver]) -> None:
    for _ in range(10):
        runner = await stores[0].runner(f"runner-{_}~a")
        created = [stores[1].do(stores[1].new(runner)) for _ in range(5)]
        await asyncio.gather(stores[0].do(d.FreeRunner(runner)), *created)
        heads = await stores[0].store.list_tasks(d.TaskFilter("acme", 100))
        assert not [task for task in heads.tasks if task.incarnation == runner]


async def test_parents_and_children_that_end_at_once_in_two_processes_do_not_lock_each_other_out(
    stores: tuple[Driver, Driver],
) -> None:
    parent = await stores[0].started()
    children = [await stores[0].spawn(parent, f"s{n}", claim=RUNNER) for n in range(10)]
    ends = [stores[n % 2].do(stores[0].ends(child)) for n, child in enumerate(children)]
    await asyncio.gather(*ends, stores[1].do(d.CancelTask(parent)))
    told = [entry for entry in await stores[0].said(parent) if entry == "child_task"]
    assert len(told) == 20


# -- what the database and the way to it may do -------------------------------------------------------------


async def test_a_text_that_the_database_can_not_hold_is_refused_alone(stores: tuple[Driver, Driver]) -> None:
    driver = stores[0]
    outcomes = await driver.group(driver.new(), driver.new(labels={"a": "nul\0"}), driver.new(request_id="\ud800"))
    assert reasons(outcomes) == ["", "TEXT_NOT_STORABLE", "TEXT_NOT_STORABLE"]
    assert isinstance(outcomes[1], InvalidRequest)


async def test_cut_connections_cost_nothing_once_they_are_replaced(
    stores: tuple[Driver, Driver], postgres: Postgres
) -> None:
    driver = stores[0]
    task = await driver.create()
    assert postgres.cut_connections() > 0
    await until_it_answers(driver)
    assert (await driver.task(task)).state is d.State.SUBMITTED


async def test_a_server_that_is_stopped_is_unavailable_and_back_after_its_start(
    stores: tuple[Driver, Driver], postgres: Postgres
) -> None:
    driver = stores[0]
    task = await driver.create()
    postgres.stop_immediate()
    try:
        for work in (driver.create(), driver.task(task), driver.claim(), driver.sweep()):
            with pytest.raises(Unavailable) as refused:
                await work
            assert refused.value.reason == "DATABASE_UNAVAILABLE"
    finally:
        postgres.start()
    await until_it_answers(driver)
    assert (await driver.task(task)).state is d.State.SUBMITTED


async def until_it_answers(driver: Driver) -> None:
    """Try until a commit goes through: the first ones may still meet connections that died."""
    async with asyncio.timeout(20):
        while True:
            try:
                await driver.create()
            except Unavailable:
                await asyncio.sleep(0.05)
            else:
                return


async def test_a_commit_whose_reply_is_lost_is_unavailable_and_counts_once(postgres: Postgres) -> None:
    with FaultProxy(postgres.address) as proxy:
        store = await opened(postgres.new_database(address=proxy.address))
        driver = Driver(store)
        await driver.create()
        change = driver.new(request_id="r")
        proxy.drop_reply(b"COMMIT")
        with pytest.raises(Unavailable):
            await driver.do(change)
        proxy.heal()
        again = await driver.do(driver.new(request_id="r"))
        assert (again.existed, again.task_id) == (True, change.task.id)
        await store.aclose()


async def test_a_pool_that_is_used_up_says_so_and_takes_up_again(database_url: str) -> None:
    store = await opened(database_url, pool_size=1, max_overflow=0, pool_timeout=0.05)
    driver = Driver(store)
    async with store.pool.lend():
        with pytest.raises(Unavailable) as refused:
            await driver.create()
        assert refused.value.reason == "DATABASE_POOL_EXHAUSTED"
    await driver.create()
    await store.aclose()


async def test_connections_are_replaced_by_age(database_url: str) -> None:
    store = await opened(database_url, pool_size=1, max_overflow=0, pool_recycle=0.001)
    pids = set()
    for _ in range(3):
        async with store.pool.lend() as db:
            pids.add(await db.fetchval("SELECT pg_backend_pid()"))
            await db.fetchval("SELECT pg_sleep(0.002)")
        await asyncio.sleep(0)
    assert len(pids) > 1
    await store.aclose()


async def test_the_clock_is_the_databases_whatever_the_host_thinks(stores: tuple[Driver, Driver]) -> None:
    store = stores[0].store
    assert isinstance(store, PostgresTaskStore)

    class AnHourAhead(SystemClock):
        def now_ms(self) -> int:
            return super().now_ms() + 3_600_000

    clock = DatabaseClock(store.pool, AnHourAhead())
    await clock.sample()
    (row,) = await store.pool.fetch("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")
    assert abs(clock.now_ms() - row[0]) < 1_000


async def test_errors_of_the_database_carry_no_text_of_it(stores: tuple[Driver, Driver], postgres: Postgres) -> None:
    postgres.stop_immediate()
    try:
        with pytest.raises(MeshError) as refused:
            await stores[0].create()
        assert "127.0.0.1" not in refused.value.message
        assert "password" not in refused.value.message
    finally:
        postgres.start()
