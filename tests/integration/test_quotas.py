"""Quotas and many watchers on a real mesh: who is refused is told when to come back, and nothing is lost."""

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from agentmesh.api.task.v1 import task_pb2
from agentmesh.api.task.v1 import task_service_pb2 as pb
from agentmesh.api.task.v1 import task_service_pb2_grpc as pb_grpc
from agentmesh.client import AsyncClient
from agentmesh.kit import names
from agentmesh.kit.errors import MeshError, ResourceExhausted, from_rpc_error
from agentmesh.kit.rpc_client import bearer, open_channel
from tests.support import agents_for_tests
from tests.support.mesh import Mesh
from tests.support.reading import echo

KEYS = {tenant: f"key-of-{tenant}" for tenant in ("noisy", "small", "plain")}
LIMITS = [
    {"tenant": "noisy", "submits_per_s": 20, "burst": 10},
    {"tenant": "small", "max_waiting": 3, "max_running": 2},
]


def environment() -> dict[str, str]:
    keys = [{"sha256": hashlib.sha256(key.encode()).hexdigest(), "tenant": tenant} for tenant, key in KEYS.items()]
    return {
        "AGENTMESH_SECURITY__AUTHENTICATION": "true",
        "AGENTMESH_SECURITY__AUTHORIZATION": "true",
        "AGENTMESH_SECURITY__RATE_LIMITING": "true",
        "AGENTMESH_SECURITY__API_KEYS": json.dumps(keys),
        "AGENTMESH_LIMITS__TENANTS": json.dumps(LIMITS),
    }


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """One mesh with three tenants."""
    agents = str(Path(agents_for_tests.__file__))
    with Mesh(tmp_path_factory.mktemp("mesh"), environment=environment(), arguments=["--agents", agents]) as running:
        yield running


@asynccontextmanager
async def stub_of(mesh: Mesh) -> AsyncIterator["pb_grpc.TaskServiceAsyncStub"]:
    async with open_channel(mesh.router) as channel:
        yield pb_grpc.TaskServiceStub(channel)  # type: ignore[misc]


async def submit(stub: "pb_grpc.TaskServiceAsyncStub", tenant: str) -> MeshError | None:
    request = pb.SubmitTaskRequest(spec=echo())
    try:
        await stub.SubmitTask(request, metadata=bearer(KEYS[tenant]), timeout=20)
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    return None


async def test_a_refused_unary_call_says_when_to_come_back_in_every_way_there_is(mesh: Mesh) -> None:
    async with stub_of(mesh) as stub:
        answers = await asyncio.gather(*(submit(stub, "noisy") for _ in range(60)))
        refused = [error for error in answers if error is not None]
        assert refused
        assert {(type(error), error.reason, error.quota) for error in refused} == {
            (ResourceExhausted, names.RATE_LIMITED, "tenant:noisy")
        }

        async def submit_until_refused() -> None:
            while True:
                await stub.SubmitTask(pb.SubmitTaskRequest(spec=echo()), metadata=bearer(KEYS["noisy"]), timeout=20)

        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await submit_until_refused()
    trailing = dict(raised.value.trailing_metadata() or ())
    assert int(trailing[names.RETRY_PUSHBACK]) == round(1000 * (from_rpc_error(raised.value).retry_after_s or 0))


async def test_a_client_over_its_rate_that_honours_the_hints_gets_everything_through(mesh: Mesh) -> None:
    async with AsyncClient(mesh.router, token=KEYS["noisy"]) as client:
        tasks = await asyncio.gather(*(client.submit("echo", f"{number}") for number in range(40)))
    assert len({task.id for task in tasks}) == 40


async def test_a_full_queue_is_refused_until_there_is_room(mesh: Mesh) -> None:
    async with AsyncClient(mesh.router, token=KEYS["small"]) as client:
        tasks: list[task_pb2.Task] = []

        async def fill() -> None:
            while True:
                tasks.append(await client.submit("sleeper", parameters={"seconds": 60}))

        with pytest.raises(ResourceExhausted) as raised:
            await fill()
        assert len(tasks) == 5  # two run, three wait
        error = raised.value
        assert (error.reason, error.quota, error.metadata["limit"]) == (names.QUEUE_FULL, "tenant:small", "3")
        assert error.retry_after_s
        for task in tasks:
            await client.cancel(task.id)
        async with asyncio.timeout(20):
            while True:
                try:
                    last = await client.submit("echo", "room again", parameters={"count": 1})
                    break
                except ResourceExhausted as full:
                    await asyncio.sleep(full.retry_after_s or 0.1)
        assert (await client.result(last.id)).completed


async def test_a_thousand_watchers_of_one_client_all_hear_everything(mesh: Mesh) -> None:
    async with AsyncClient(mesh.router, token=KEYS["plain"]) as client:
        tasks = [await client.submit("asker", f"{number}") for number in range(10)]
        listening: Counter[str] = Counter()

        async def watch(task_id: str) -> list[int]:
            seen = []
            async for event in client.watch(task_id):
                if event.sequence == 1:
                    listening[task_id] += 1
                seen.append(event.sequence)
            return seen

        watching = [asyncio.create_task(watch(task.id)) for task in tasks for _ in range(100)]
        while sum(listening.values()) < 1000:
            await asyncio.sleep(0.05)
        for task in tasks:
            await answer(client, task.id)
        seen = await asyncio.gather(*watching)
    assert all(sequences == list(range(1, len(sequences) + 1)) for sequences in seen)
    assert {len(sequences) for sequences in seen} == {len(seen[0])}


async def answer(client: AsyncClient, task_id: str) -> None:
    """Answer the question of a task, once it is asked."""
    async for event in client.watch(task_id):
        input_id = event.event.state_changed.input_request.input_id
        if input_id:
            await client.send_input(task_id, input_id, "Ada")
            return
