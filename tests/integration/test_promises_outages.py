"""R11 and R12: without Redis or PostgreSQL nothing is lost, and no silent peer or slow reader holds others up."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import psutil
import pytest

from agentmesh.api.task.v1 import task_service_pb2 as pb
from agentmesh.client import AsyncClient
from tests.integration.conftest import Start, judged
from tests.support.fleet import Fleet
from tests.support.history import Expected
from tests.support.postgres import Postgres
from tests.support.reading import Log, echo, read_through, until_seen
from tests.support.redis import RedisServer
from tests.support.settling import all_tasks, tasks_at

COMPLETED = 3
MIB = 1024 * 1024
Outage = tuple[Callable[[], None], Callable[[], None]]


@pytest.fixture(scope="module")
def fleet(start: Start, redis_server: RedisServer) -> Fleet:
    """Two of everything, with Redis; router-1 is behind a proxy."""
    settings = {
        "AGENTMESH_TASKS__LEASE_TTL_S": "10",  # longer than a busy machine takes to start a process
        "AGENTMESH_CACHE__BACKEND": "redis",
        "REDIS_URL": redis_server.url(),
    }
    return start(settings=settings, proxied=["router-1"])


@pytest.fixture(autouse=True)
async def healed(fleet: Fleet) -> AsyncIterator[None]:
    """Whole again after each test."""
    yield
    await asyncio.to_thread(fleet.heal)
    await asyncio.to_thread(fleet.wait_serving)


# -- R11: Redis -----------------------------------------------------------------------------------------------


@pytest.fixture(params=["stopped", "frozen"])
def redis_outage(request: pytest.FixtureRequest, redis_server: RedisServer) -> Iterator[Outage]:
    """Begins and ends an outage of Redis."""
    begin, end = {
        "stopped": (redis_server.stop, redis_server.start),
        "frozen": (redis_server.freeze, redis_server.thaw),
    }[request.param]
    ended: list[bool] = []
    yield begin, lambda: (end(), ended.append(True))[0]
    if not ended:
        end()


async def test_r11_without_redis_no_task_fails(fleet: Fleet, redis_outage: Outage) -> None:
    begin, end = redis_outage
    async with AsyncClient(fleet.router) as client, client.lane() as lane:

        async def run() -> bool:
            return (await lane.run("echo", "x", parameters={"count": 5, "delay_ms": 10})).completed

        before = [asyncio.create_task(run()) for _ in range(20)]
        await asyncio.to_thread(begin)
        during = [asyncio.create_task(run()) for _ in range(40)]
        assert all(await asyncio.gather(*before, *during))
        await asyncio.to_thread(end)
        assert all(await asyncio.gather(*(run() for _ in range(20))))


# -- R11: PostgreSQL ------------------------------------------------------------------------------------------


@pytest.fixture
def database(fleet: Fleet, request: pytest.FixtureRequest) -> Postgres:
    """The server below the fleet."""
    if fleet.database.startswith("sqlite"):
        pytest.skip("SQLite has no server")
    server: Postgres = request.getfixturevalue("postgres")
    return server


@pytest.fixture(params=["frozen", "killed", "stopped"])
def outage(request: pytest.FixtureRequest, database: Postgres) -> Iterator[Outage]:
    """Begins and ends an outage of PostgreSQL."""
    begin = {"frozen": database.freeze, "killed": database.kill, "stopped": database.stop_immediate}[request.param]

    def end() -> None:
        database.thaw()
        if not database.daemon.running:
            database.start()

    yield begin, end
    end()


async def test_r11_without_postgresql_submits_are_unavailable_and_what_runs_goes_on_after_it(
    fleet: Fleet, outage: Outage
) -> None:
    begin, end = outage
    request_id, seen, log = str(uuid.uuid4()), asyncio.Queue[int](), Log()
    spec = echo(count=60, delay_ms=20)
    reading = asyncio.create_task(read_through(fleet.routers[1], spec, request_id, seen=seen, log=log))
    await until_seen(reading, seen, 15)
    await asyncio.to_thread(begin)
    lost = pb.SubmitTaskRequest(request_id=str(uuid.uuid4()), spec=echo())
    async with tasks_at(fleet.routers[1]) as stub:
        for _ in range(3):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.SubmitTask(lost, timeout=10)
            # Not DEADLINE_EXCEEDED: it was the mesh that said so.
            assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
        await asyncio.to_thread(end)
        log = await asyncio.wait_for(reading, 40)
        await asyncio.to_thread(fleet.wait_serving)
        # One of the refused submits may have been committed all the same, but then it is this task.
        first = (await stub.SubmitTask(lost, timeout=10)).task.id
        assert [task.id for task in await all_tasks(stub) if task.request_id == lost.request_id] == [first]
    assert log.state == COMPLETED
    await judged(fleet, log, Expected(messages=60), request_id)


async def test_r11_cut_connections_to_postgresql_cost_nothing(fleet: Fleet, database: Postgres) -> None:
    request_id, seen, log = str(uuid.uuid4()), asyncio.Queue[int](), Log()
    spec = echo(count=60, delay_ms=20, steps=True)
    reading = asyncio.create_task(read_through(fleet.router, spec, request_id, seen=seen, log=log))
    for sequence in (15, 30, 45):
        await until_seen(reading, seen, sequence)
        assert await asyncio.to_thread(database.cut_connections) > 0
    log = await asyncio.wait_for(reading, 40)
    assert log.attempts == [1], fleet.logs()
    await judged(fleet, log, Expected(messages=60, steps=True), request_id)


async def test_r11_a_lost_reply_to_a_commit_makes_no_second_task(
    database: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("lost-reply")
    with Fleet(folder, database=database.new_database(), proxied=["postgres"]) as alone:
        proxy = alone.proxies["postgres"]
        async with AsyncClient(alone.router) as client:
            for number in range(5):
                request_id = f"lost-reply-{number}-{uuid.uuid4()}"
                proxy.drop_reply(request_id.encode())
                result = await client.run("echo", "x", request_id=request_id, parameters={"count": 3})
                assert result.completed
                assert proxy.dropped == number + 1
        async with tasks_at(alone.router) as stub:
            assert len(await all_tasks(stub)) == 5


# -- R12 ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["router", "runner", "storage", "llm"])
async def test_r12_a_frozen_peer_holds_nobody_up_for_long(fleet: Fleet, role: str) -> None:
    if len(fleet.names_of(role)) < 2:
        pytest.skip("there is nobody to take its place")
    async with AsyncClient(fleet.router) as client:
        running = asyncio.create_task(client.run("echo", "x", parameters={"count": 100, "delay_ms": 10}))
        await asyncio.to_thread(fleet.freeze, f"{role}-1")
        async with asyncio.timeout(40):
            for _ in range(4):
                assert (await client.run("echo", "x", parameters={"count": 2, "llm_calls": 1})).completed
            assert (await running).completed


async def test_r12_a_network_that_swallows_everything_is_noticed(fleet: Fleet) -> None:
    proxy = fleet.proxies["router-1"]
    async with AsyncClient(fleet.router) as client:
        assert (await client.run("echo", "x")).completed
        running = asyncio.create_task(client.run("echo", "x", parameters={"count": 50, "delay_ms": 20}))
        proxy.blackhole()
        async with asyncio.timeout(30):
            assert (await running).completed
        assert client.address == fleet.routers[1]


async def whole_log(stub: Any, task_id: str) -> Log:
    """Read a task from its beginning to its end."""
    log = Log()
    async for response in stub.WatchTask(pb.WatchTaskRequest(task_id=task_id)):
        for chunk in response.chunks:
            log.add(chunk)
    return log


async def test_r12_a_stream_that_nobody_reads_is_bounded_and_slows_nobody(fleet: Fleet) -> None:
    router = psutil.Process(fleet.pid("router-2"))
    spec = echo(count=800, size=100_000)
    async with tasks_at(fleet.routers[1]) as stub, tasks_at(fleet.routers[1]) as other:
        # What a log of 20 MB costs in passing, before it is held against one that is not read.
        warm = await stub.SubmitTask(pb.SubmitTaskRequest(request_id=str(uuid.uuid4()), spec=spec))
        await asyncio.gather(whole_log(stub, warm.task.id), whole_log(other, warm.task.id))
        before = router.memory_info().rss
        unread = stub.StreamTask(pb.StreamTaskRequest(request_id=str(uuid.uuid4()), spec=spec))
        first = await anext(aiter(unread))
        whole = await whole_log(other, first.chunks[0].task_id)
        grown = router.memory_info().rss - before
        late = Log()
        for chunk in first.chunks:
            late.add(chunk)
        async for response in unread:
            for chunk in response.chunks:
                late.add(chunk)
    assert whole.messages() == late.messages() == [spec.prompt * 20_000] * 800
    assert grown < 16 * MIB, f"{grown / MIB:.1f} MiB"
