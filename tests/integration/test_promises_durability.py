"""R1 to R4: what was accepted is there, once, executed visibly once, and reads the same from anywhere."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest

from agentmesh.api.task.v1 import task_service_pb2 as pb
from agentmesh.client import AsyncClient
from tests.integration.conftest import Start, judged
from tests.support.fleet import Fleet
from tests.support.history import Expected, content_of
from tests.support.postgres import Postgres
from tests.support.reading import Log, echo, read_through, until_seen
from tests.support.settling import all_tasks, tasks_at

COMPLETED = 3
SHAPES = {
    "messages": (Expected(messages=60), {"count": 60}),
    "steps": (Expected(messages=60, steps=True), {"count": 60, "steps": True}),
    "deltas": (Expected(deltas=60), {"count": 60, "mode": "delta"}),
    "calls": (Expected(messages=40, llm_calls=3), {"count": 40, "llm_calls": 3}),
}


@pytest.fixture(scope="module")
def fleet(start: Start) -> Fleet:
    """Two routers and two runners; each test heals what it broke."""
    return start(settings={"AGENTMESH_TASKS__LEASE_TTL_S": "6"})


@pytest.fixture(autouse=True)
async def healed(fleet: Fleet) -> AsyncIterator[None]:
    """Whole again after each test."""
    yield
    await asyncio.to_thread(fleet.heal)
    await asyncio.to_thread(fleet.wait_serving)


async def read_while(
    fleet: Fleet, shape: str, at: int, hit: Callable[[Log], Awaitable[object]]
) -> tuple[Log, Expected, str]:
    """Read a task of 20 ms steps to its end, and do something to the fleet when it has come to sequence `at`."""
    expected, parameters = SHAPES[shape]
    request_id, seen, log = str(uuid.uuid4()), asyncio.Queue[int](), Log()
    spec = echo(delay_ms=20, **parameters)  # type: ignore[arg-type]
    reading = asyncio.create_task(read_through(fleet.router, spec, request_id, seen=seen, log=log))
    await until_seen(reading, seen, at)
    await hit(log)
    return await asyncio.wait_for(reading, 40), expected, request_id


def runner_of(log: Log) -> str:
    """Return the member that runs a task."""
    started = [event.attempt_started.runner for _, _, event in log.entries if event.HasField("attempt_started")]
    return started[-1].partition(":")[0]


# -- R1 -------------------------------------------------------------------------------------------------------


async def test_r1_what_was_acknowledged_outlives_the_death_of_all(fleet: Fleet, request: pytest.FixtureRequest) -> None:
    postgres: Postgres | None = None
    if not fleet.database.startswith("sqlite"):
        postgres = request.getfixturevalue("postgres")
    acknowledged: dict[str, str] = {}

    async def submit_until_dead(address: str) -> None:
        async with tasks_at(address) as stub:
            while True:
                request_id = str(uuid.uuid4())
                try:
                    answer = await stub.SubmitTask(pb.SubmitTaskRequest(request_id=request_id, spec=echo()), timeout=5)
                except grpc.aio.AioRpcError:
                    return
                acknowledged[request_id] = answer.task.id

    submitting = [asyncio.create_task(submit_until_dead(address)) for address in fleet.routers * 8]
    async with asyncio.timeout(20):
        while len(acknowledged) < 100:
            await asyncio.sleep(0.01)
    if postgres is not None:
        postgres.kill()  # at once: whatever is not on the disk by now is gone
    for name in fleet.names_of("storage", "router", "runner"):
        await asyncio.to_thread(fleet.kill, name, start=False)
    await asyncio.gather(*submitting)
    if postgres is not None:
        await asyncio.to_thread(postgres.start)
    await asyncio.to_thread(fleet.heal)
    await asyncio.to_thread(fleet.wait_serving)
    async with tasks_at(fleet.routers[0]) as stub:
        stored = {task.request_id: task.id for task in await all_tasks(stub)}
    assert acknowledged.items() <= stored.items()
    async with AsyncClient(fleet.router) as client:
        results = await asyncio.gather(*(client.result(task_id) for task_id in acknowledged.values()))
    assert {result.state_name for result in results} == {"COMPLETED"}


# -- R2 -------------------------------------------------------------------------------------------------------


async def submitted(stub: Any, request: pb.SubmitTaskRequest) -> str:
    """Submit until the mesh has said which task it is, as the shipped client does."""
    async with asyncio.timeout(30):
        while True:
            try:
                return str((await stub.SubmitTask(request, timeout=20)).task.id)
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.1)


async def test_r2_64_parallel_submits_of_one_request_are_one_task_on_any_router(fleet: Fleet) -> None:
    request = pb.SubmitTaskRequest(request_id=str(uuid.uuid4()), spec=echo(count=3))
    async with tasks_at(fleet.routers[0]) as first, tasks_at(fleet.routers[1]) as second:
        (task_id,) = set(await asyncio.gather(*(submitted((first, second)[n % 2], request) for n in range(64))))
        stored = [task.id for task in await all_tasks(second) if task.request_id == request.request_id]
        assert stored == [task_id]
        for stub in (first, second):
            other = pb.SubmitTaskRequest(request_id=request.request_id, spec=echo("another"))
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.SubmitTask(other, timeout=20)
            assert refused.value.code() == grpc.StatusCode.ALREADY_EXISTS


async def test_r2_a_request_repeated_over_a_restart_is_the_same_task(fleet: Fleet) -> None:
    request = pb.SubmitTaskRequest(request_id=str(uuid.uuid4()), spec=echo())
    async with tasks_at(fleet.routers[0]) as stub:
        first = await submitted(stub, request)
    for name in ("router-2", *fleet.names_of("storage")):
        await asyncio.to_thread(fleet.kill, name)
    await asyncio.to_thread(fleet.wait_serving)
    async with tasks_at(fleet.routers[1]) as stub:
        assert await submitted(stub, request) == first


# -- R3 -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["messages", "steps"])
async def test_r3_a_runner_frozen_past_its_lease_and_thawed_doubles_nothing(fleet: Fleet, shape: str) -> None:
    frozen: list[str] = []

    async def freeze_until_taken_over(log: Log) -> None:
        frozen.append(runner_of(log))
        await asyncio.to_thread(fleet.freeze, frozen[0])
        async with asyncio.timeout(20):
            while len(log.attempts) < 2:
                await asyncio.sleep(0.02)
        # Thawed in the middle of the second attempt, it goes on at once with what it was about to say.
        await asyncio.to_thread(fleet.thaw, frozen[0])

    log, expected, request_id = await read_while(fleet, shape, 15, freeze_until_taken_over)
    assert log.state == COMPLETED
    assert log.attempts == [1, 2], fleet.logs()
    assert runner_of(log) != frozen[0]
    await judged(fleet, log, expected, request_id)


async def test_r3_a_frozen_router_is_replaced_and_doubles_nothing_when_it_is_thawed(fleet: Fleet) -> None:
    async def freeze_for_a_while(log: Log) -> None:
        before = log.last_sequence
        await asyncio.to_thread(fleet.freeze, "router-1")
        async with tasks_at(fleet.routers[1]) as other, asyncio.timeout(30):
            async for response in other.WatchTask(pb.WatchTaskRequest(task_id=log.task_id)):
                if response.chunks[-1].first_sequence > before + 5:
                    break  # somebody else has it now
        await asyncio.to_thread(fleet.thaw, "router-1")

    log, expected, request_id = await read_while(fleet, "messages", 10, freeze_for_a_while)
    assert log.state == COMPLETED
    await judged(fleet, log, expected, request_id)


# -- R4 -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
async def test_r4_any_suffix_reads_the_same_from_any_router_after_a_kill(fleet: Fleet, shape: str) -> None:
    async def kill(log: Log) -> None:
        await asyncio.to_thread(fleet.kill, runner_of(log))

    log, expected, request_id = await read_while(fleet, shape, 20, kill)
    assert log.state == COMPLETED
    assert log.attempts == [1, 2], fleet.logs()
    await judged(fleet, log, expected, request_id)
    whole = [(sequence, content_of(attempt, event)) for sequence, attempt, event in log.entries]
    for address in fleet.routers:
        async with tasks_at(address) as stub:
            for after in range(len(whole)):
                assert await suffix(stub, log.task_id, after) == whole[after:], f"after {after} from {address}"


async def suffix(stub: Any, task_id: str, after: int) -> list[tuple[int, bytes]]:
    """Read what comes after a sequence, as it can be compared."""
    read: list[tuple[int, bytes]] = []
    async for response in stub.WatchTask(pb.WatchTaskRequest(task_id=task_id, after_sequence=after), timeout=10):
        for chunk in response.chunks:
            read += [(chunk.first_sequence + i, content_of(chunk.attempt, e)) for i, e in enumerate(chunk.events)]
    return read


@pytest.mark.parametrize("role", ["router", "storage", "llm"])
async def test_r4_killing_what_runs_no_agent_starts_no_second_attempt(fleet: Fleet, role: str) -> None:
    async def kill(log: Log) -> None:
        await asyncio.to_thread(fleet.kill, f"{role}-1")

    log, expected, request_id = await read_while(fleet, "messages", 20, kill)
    assert log.state == COMPLETED
    assert log.attempts == [1], fleet.logs()
    await judged(fleet, log, expected, request_id)
