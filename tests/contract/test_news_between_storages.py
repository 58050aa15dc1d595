"""What one storage process commits is told in the others, by NOTIFY and by Redis alike; what is lost is said."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from agentmesh.kit.clock import SystemClock
from agentmesh.kit.settings import Database
from agentmesh_storage import domain as d
from agentmesh_storage.adapters.postgres.notify import PostgresWire
from agentmesh_storage.adapters.postgres.pool import open_pool
from agentmesh_storage.adapters.redis_wire import RedisWire
from agentmesh_storage.news import Bulletin, Wire
from agentmesh_storage.ports import News
from tests.support.postgres import Postgres
from tests.support.redis import RedisServer


class Process:
    """One storage process's end: what it heard, in order."""

    def __init__(self, wire: Wire) -> None:
        self.heard: asyncio.Queue[News | None] = asyncio.Queue()
        self.bulletin = Bulletin(wire, SystemClock(), lambda news: self.heard.put_nowait(news))

    async def hears(self, *task_ids: str) -> set[str]:
        """Wait until it has heard of these tasks; return the agents it heard of."""
        missing, agents = set(task_ids), set[str]()
        async with asyncio.timeout(15):
            while missing:
                news = await self.heard.get()
                if news is not None:
                    missing -= {head.task_id for head in news.heads}
                    agents |= news.ready_agents
        return agents

    async def misses(self) -> None:
        """Wait until it is told that news may be lost."""
        async with asyncio.timeout(15):
            while await self.heard.get() is not None:
                continue


def head(task_id: str) -> d.Head:
    return d.Head("acme", task_id, 7, d.State.WORKING, 1, True, "", "router-1")


@asynccontextmanager
async def two(wires: tuple[Wire, Wire]) -> AsyncIterator[tuple[Process, Process]]:
    """Run two processes until they know each other."""
    processes = Process(wires[0]), Process(wires[1])
    running = [asyncio.create_task(process.bulletin.run()) for process in processes]
    try:
        for process in processes:
            await process.misses()
        async with asyncio.timeout(15):
            while not all(process.bulletin.has_peers for process in processes):
                await asyncio.sleep(0.01)
        for process in processes:
            process.heard = asyncio.Queue()
        yield processes
    finally:
        for task in running:
            task.cancel()
        await asyncio.wait(running)


@pytest.fixture(params=["postgres", "redis"])
async def wires(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Wire, Wire]]:
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis")
        made = RedisWire(server.url()), RedisWire(server.url())
        yield made
        for wire in made:
            await wire.aclose()
        return
    url = request.getfixturevalue("database_url")
    pool = await open_pool(Database(url=url))
    yield PostgresWire(pool, url), PostgresWire(pool, url)
    await pool.aclose()


async def test_news_reach_the_other_process_and_not_oneself(wires: tuple[Wire, Wire]) -> None:
    async with two(wires) as (one, other):
        one.bulletin.tell(News(heads=[head("t1")], ready_agents={"echo"}))
        assert await other.hears("t1") == {"echo"}
        other.bulletin.tell(News(heads=[head("t2")]))
        await one.hears("t2")
        assert one.heard.empty()


async def test_a_burst_is_told_whole_whatever_fits_into_one_message(wires: tuple[Wire, Wire]) -> None:
    async with two(wires) as (one, other):
        many = [f"task-{n:030}" for n in range(500)]
        one.bulletin.tell(News(heads=[head(task_id) for task_id in many]))
        await other.hears(*many)


async def test_nothing_is_collected_for_nobody(database_url: str) -> None:
    pool = await open_pool(Database(url=database_url))
    alone = Bulletin(PostgresWire(pool, database_url), SystemClock(), lambda news: None)
    alone.tell(News(heads=[head("t1")]))
    assert not alone.has_peers
    assert not alone.has_something_to_tell
    await pool.aclose()


async def test_a_connection_that_was_cut_is_made_again_and_what_was_lost_is_said(
    database_url: str, postgres: Postgres
) -> None:
    pool = await open_pool(Database(url=database_url))
    async with two((PostgresWire(pool, database_url), PostgresWire(pool, database_url))) as (one, other):
        postgres.cut_connections()
        await other.misses()
        await one.misses()
        one.bulletin.tell(News(heads=[head("t1")]))
        await other.hears("t1")
    await pool.aclose()


async def test_redis_that_is_gone_costs_news_and_nothing_else(redis: RedisServer) -> None:
    wires = RedisWire(redis.url()), RedisWire(redis.url())
    async with two(wires) as (one, other):
        redis.stop()
        one.bulletin.tell(News(heads=[head("lost")]))
        redis.start()
        await other.misses()
        await one.misses()
        one.bulletin.tell(News(heads=[head("t1")]))
        await other.hears("t1")
    for wire in wires:
        await wire.aclose()
