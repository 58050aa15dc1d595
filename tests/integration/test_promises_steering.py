"""R5 to R8 and R14: cancels and deadlines reach everything, a cut answer is no answer, no call is paid twice."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from agentmesh.api.task.v1 import task_pb2
from agentmesh.api.task.v1 import task_service_pb2 as pb
from agentmesh.client import AsyncClient
from agentmesh.kit.clock import duration
from tests.integration.conftest import Start
from tests.support import agents_for_tests
from tests.support.fake_openai import sse_bytes
from tests.support.fake_provider import FakeProvider
from tests.support.fleet import Fleet
from tests.support.ports import free_ports
from tests.support.reading import Log, echo, read_through, until_seen
from tests.support.settling import tasks_at

COMPLETED, FAILED, CANCELED = 3, 4, 5
SLOW, STALLED = "slow:40", "stall:2"
# So many that none fails often enough to be left alone: what is tested is who asks again.
DOWN = [f"status:{number}" for number in range(500, 600)]
# Cuts before the first byte, inside the first event, inside the text, and before the marker.
CUTS = ("cut:0", "cut:40", "reset:300", "cut:700", "no-done")
PORT = free_ports()


@pytest.fixture(scope="module")
def fleet(start: Start) -> Fleet:
    """Two llm-proxies, whose only provider is the one that each test opens."""
    models = ["ok", SLOW, STALLED, *DOWN, *CUTS]
    provider = {"name": "fake", "base_url": f"http://127.0.0.1:{PORT}/v1", "api_key": "secret", "models": models}
    settings = {
        "AGENTMESH_TASKS__LEASE_TTL_S": "10",  # longer than a busy machine takes to start a process
        "AGENTMESH_LLM__PROVIDERS": json.dumps([provider]),
        "AGENTMESH_RUNNER__AGENTS": str(Path(agents_for_tests.__file__)),
    }
    return start(llms=2, settings=settings)


@pytest.fixture
async def provider(fleet: Fleet) -> AsyncIterator[FakeProvider]:
    """A provider that counts its calls; the fleet is whole again after each test."""
    async with FakeProvider(port=PORT) as fake:
        yield fake
    await asyncio.to_thread(fleet.heal)
    await asyncio.to_thread(fleet.wait_serving)


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.01)


async def submit(address: str, spec: task_pb2.TaskSpec) -> str:
    """Submit a task and return its id."""
    async with tasks_at(address) as stub:
        request = pb.SubmitTaskRequest(request_id=str(uuid.uuid4()), spec=spec)
        return str((await stub.SubmitTask(request, timeout=10)).task.id)


# -- R5 -------------------------------------------------------------------------------------------------------


async def test_r5_a_cancel_over_another_router_closes_the_providers_socket(
    fleet: Fleet, provider: FakeProvider
) -> None:
    task_id = await submit(fleet.routers[0], echo(llm_calls=1, model=STALLED))
    await until(lambda: bool(provider.hits))
    async with AsyncClient(fleet.routers[1]) as client:
        await client.cancel(task_id)
        await asyncio.wait_for(provider.hits[0].closed.wait(), 20)
        assert provider.hits[0].how == "client_gone"
        assert (await client.result(task_id)).state_name == "CANCELED"
    assert len(provider.hits) == 1


async def test_r5_a_cancel_reaches_the_children(fleet: Fleet, provider: FakeProvider) -> None:
    async with AsyncClient(fleet.routers[0]) as client, AsyncClient(fleet.routers[1]) as other:
        parent = await client.submit("slow_parent", "x")
        children: list[str] = []
        async for event in client.watch(parent.id):
            if event.name == "child_task":
                children.append(event.event.child_task.task_id)
                break
        await other.cancel(parent.id)
        assert (await client.result(children[0])).state_name == "CANCELED"
        assert (await client.result(parent.id)).state_name == "CANCELED"


async def test_r5_a_cancel_while_the_runner_is_frozen_holds_when_it_is_thawed(
    fleet: Fleet, provider: FakeProvider
) -> None:
    task_id = await submit(fleet.routers[0], echo(llm_calls=1, model=STALLED))
    await until(lambda: bool(provider.hits))
    runners = fleet.names_of("runner")
    for name in runners:
        await asyncio.to_thread(fleet.freeze, name)
    async with AsyncClient(fleet.routers[1]) as client:
        task = await client.cancel(task_id)
        assert task.HasField("cancel_requested_time")
        for name in runners:
            await asyncio.to_thread(fleet.thaw, name)
        assert (await client.result(task_id)).state_name == "CANCELED"
    await asyncio.wait_for(provider.hits[0].closed.wait(), 20)


# -- R6 -------------------------------------------------------------------------------------------------------


async def test_r6_a_deadline_closes_the_providers_socket_and_ends_the_task(
    fleet: Fleet, provider: FakeProvider
) -> None:
    spec = echo(llm_calls=1, model=STALLED)
    spec.timeout.CopyFrom(duration(1.0))
    task_id = await submit(fleet.routers[0], spec)
    await until(lambda: bool(provider.hits))
    await asyncio.wait_for(provider.hits[0].closed.wait(), 20)
    assert provider.hits[0].how == "client_gone"
    async with AsyncClient(fleet.router) as client:
        result = await client.result(task_id)
    assert (result.state_name, result.error and result.error.reason) == ("FAILED", "TASK_TIMEOUT")
    assert len(provider.hits) == 1


async def test_r6_what_expired_in_the_queue_is_never_run_and_never_billed(fleet: Fleet, provider: FakeProvider) -> None:
    for name in fleet.names_of("runner"):
        await asyncio.to_thread(fleet.kill, name, start=False)
    spec = echo(llm_calls=1, model="ok")
    spec.queue_timeout.CopyFrom(duration(0.3))
    async with AsyncClient(fleet.router) as client:
        task_id = await submit(fleet.routers[0], spec)
        result = await client.result(task_id)
        assert result.state_name == "FAILED"
        await asyncio.to_thread(fleet.heal)
        await asyncio.to_thread(fleet.wait_serving)
        assert (await client.run("echo", "x", parameters={"llm_calls": 1, "model": "ok"})).completed
        task = await client.get(task_id)
    assert len(provider.hits) == 1
    assert not any(event.name == "message" for event in result.events)
    assert task.state == FAILED


# -- R7 -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", CUTS)
async def test_r7_an_answer_that_was_cut_fails_the_task_and_is_asked_for_again(
    fleet: Fleet, provider: FakeProvider, model: str
) -> None:
    async with AsyncClient(fleet.router) as client:
        for _ in range(2):
            before = len(provider.hits)
            spec = echo(llm_calls=1, model=model)
            spec.retry.max_attempts = 1
            result = await client.result(await submit(fleet.routers[0], spec))
            assert result.state_name == "FAILED"
            assert not any(event.name == "step_completed" for event in result.events)
            assert len(provider.hits) > before  # it was not kept from the last time
    assert len(sse_bytes(provider.hits[0].body)) > 700


# -- R8 -------------------------------------------------------------------------------------------------------


async def test_r8_an_outage_of_the_provider_is_not_made_worse_by_retries(fleet: Fleet, provider: FakeProvider) -> None:
    once = task_pb2.RetryPolicy(max_attempts=1)
    async with AsyncClient(fleet.router) as client, client.lane() as lane:
        work = (lane.run("echo", "x", parameters={"llm_calls": 1, "model": model}, retry=once) for model in DOWN)
        results = await asyncio.gather(*work)
    assert {result.state_name for result in results} == {"FAILED"}
    assert 100 <= len(provider.hits) <= 120


# -- R14 ------------------------------------------------------------------------------------------------------


async def kill_in_the_second_call(fleet: Fleet, provider: FakeProvider, role: str) -> Log:
    """Kill what does this role for a task, in the middle of the second of its three calls."""
    seen, log = asyncio.Queue[int](), Log()
    spec = echo("a prompt of some words", llm_calls=3, model=SLOW)
    reading = asyncio.create_task(read_through(fleet.router, spec, str(uuid.uuid4()), seen=seen, log=log))
    await until_seen(reading, seen, 5)  # the first step is in the log
    await until(lambda: len(provider.hits) == 2)
    runner = next(e.attempt_started.runner for _, _, e in log.entries if e.HasField("attempt_started"))
    for name in [runner.partition(":")[0]] if role == "runner" else fleet.names_of(role):
        await asyncio.to_thread(fleet.kill, name)
        if role == "llm":  # one after the other: a call that finds none of them fails, as it should
            await asyncio.to_thread(fleet.wait_serving, name)
    log = await asyncio.wait_for(reading, 40)
    assert log.state == COMPLETED
    return log


async def kill_runners(fleet: Fleet) -> None:
    """Kill all that run agents, one after the other; they are started again."""
    for name in fleet.names_of("runner"):
        await asyncio.to_thread(fleet.kill, name)


@pytest.mark.parametrize(("role", "attempts"), [("runner", [1, 2]), ("router", [1]), ("storage", [1])])
async def test_r14_a_call_in_flight_is_joined_and_a_finished_one_not_asked_again(
    fleet: Fleet, provider: FakeProvider, role: str, attempts: list[int]
) -> None:
    log = await kill_in_the_second_call(fleet, provider, role)
    assert len(provider.hits) == 3
    assert log.attempts == attempts, fleet.logs()


async def test_r14_each_llm_proxy_that_is_killed_costs_the_call_in_flight(fleet: Fleet, provider: FakeProvider) -> None:
    log = await kill_in_the_second_call(fleet, provider, "llm")
    assert len(provider.hits) <= 3 + len(fleet.names_of("llm"))
    assert log.attempts[-1] <= 3


async def test_r14_a_step_is_in_the_log_once_however_often_its_runner_dies(
    fleet: Fleet, provider: FakeProvider
) -> None:
    # Runners that saw a proxy die, in the test before, call another for 5 s, where those after them would not look.
    await kill_runners(fleet)
    await asyncio.to_thread(fleet.wait_serving)
    seen, log = asyncio.Queue[int](), Log()
    spec = echo("a prompt", llm_calls=6, model=SLOW)
    reading = asyncio.create_task(read_through(fleet.router, spec, str(uuid.uuid4()), seen=seen, log=log))
    for calls in (2, 4, 6):
        await until(lambda calls=calls: len(provider.hits) >= calls)  # type: ignore[misc]
        await kill_runners(fleet)
    log = await asyncio.wait_for(reading, 40)
    assert log.state == COMPLETED
    assert len(provider.hits) == 6
    completed = [e.step_completed.key for _, _, e in log.entries if e.HasField("step_completed")]
    assert len(completed) == len(set(completed)) == 6
