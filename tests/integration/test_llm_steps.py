"""What the provider sees while processes die: finished steps are never paid twice, calls in flight are joined."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from agentmesh.api.task.v1 import task_service_pb2 as pb
from agentmesh.api.task.v1 import task_service_pb2_grpc as pb_grpc
from agentmesh.kit.rpc_client import open_channel
from tests.support.fake_provider import FakeProvider
from tests.support.mesh import Mesh
from tests.support.reading import Log, echo, read_through, until_seen

COMPLETED, CANCELED = 3, 5
SLOW = "slow:40"


@pytest.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    """A provider that counts."""
    async with FakeProvider() as fake:
        yield fake


@pytest.fixture
async def mesh(provider: FakeProvider, tmp_path: Path) -> AsyncIterator[Mesh]:
    """A mesh that knows no other provider."""
    fake = {"name": "fake", "base_url": provider.base_url, "api_key": "secret", "models": ["ok", SLOW]}
    # A busy machine takes longer to start a service than three attempts last.
    settings = {"database": {"create_tables": True}, "llm": {"providers": [fake]}, "tasks": {"max_attempts": 10}}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"environment": "development", "development": settings}))
    running = Mesh(tmp_path / "data", arguments=["--config", str(file)])
    await asyncio.to_thread(running.start)
    yield running
    await asyncio.to_thread(running.close)


async def _kill_in_the_second_call(mesh: Mesh, provider: FakeProvider, service: str) -> Log:
    spec = echo("a prompt of some words", llm_calls=3, model=SLOW)
    seen: asyncio.Queue[int] = asyncio.Queue()
    reading = asyncio.create_task(read_through(mesh.router, spec, str(uuid.uuid4()), seen=seen))
    await until_seen(reading, seen, 5)  # the first step is in the log
    async with asyncio.timeout(10):
        while len(provider.hits) < 2:
            await asyncio.sleep(0.01)
    await asyncio.to_thread(mesh.kill, service)
    log = await asyncio.wait_for(reading, 40)
    assert log.state == COMPLETED
    return log


@pytest.mark.parametrize(("service", "attempts"), [("runner", [1, 2]), ("router", [1]), ("storage", [1])])
async def test_a_call_in_flight_is_joined_and_a_finished_one_not_asked_again(
    mesh: Mesh, provider: FakeProvider, service: str, attempts: list[int]
) -> None:
    log = await _kill_in_the_second_call(mesh, provider, service)
    assert len(provider.hits) == 3
    assert log.attempts == attempts


async def test_a_killed_llm_proxy_costs_at_most_the_call_in_flight(mesh: Mesh, provider: FakeProvider) -> None:
    await _kill_in_the_second_call(mesh, provider, "llm")
    assert len(provider.hits) <= 4


async def test_cancel_reaches_the_providers_socket(mesh: Mesh, provider: FakeProvider) -> None:
    async with open_channel(mesh.router) as channel:
        stub = pb_grpc.TaskServiceStub(channel)
        submitted = await stub.SubmitTask(pb.SubmitTaskRequest(spec=echo("words " * 50, llm_calls=1, model=SLOW)))
        async with asyncio.timeout(10):
            while not provider.hits:
                await asyncio.sleep(0.01)
            await stub.CancelTask(pb.CancelTaskRequest(task_id=submitted.task.id))
            await provider.hits[0].closed.wait()
        assert provider.hits[0].how == "client_gone"
        async with asyncio.timeout(5):
            while (await stub.GetTask(pb.GetTaskRequest(task_id=submitted.task.id))).task.state != CANCELED:
                await asyncio.sleep(0.02)
