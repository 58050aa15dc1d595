"""A runner that is not ours, in a mesh beside the one that is: the contract carries its tasks, kills and all."""

import asyncio
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import grpc
import pytest

from agentmesh.api.task.v1 import events_pb2, task_pb2
from agentmesh.api.task.v1 import task_service_pb2 as pb
from agentmesh.api.task.v1 import task_service_pb2_grpc as pb_grpc
from agentmesh.kit.auth import Keyring, load_or_create_secret
from agentmesh.kit.rpc_client import open_channel
from agentmesh.sdk.agent import to_struct
from tests.support.go_tools import go_runner
from tests.support.mesh import Mesh
from tests.support.ports import free_ports
from tests.support.reading import Log, echo, read_through, until_seen

# The first test pays for the build.
pytestmark = pytest.mark.timeout(300)


class GoRunner:
    """The Go runner as a process that may be killed and started again at one address."""

    def __init__(self, address: str, token: str) -> None:
        self._command = [str(go_runner()), address]
        self._environment = {"AGENTMESH_RUNNER_EXPECT_TOKEN": token}
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, env=self._environment)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(10)


@dataclass
class Both:
    """A mesh whose router knows two runners, and the one of them that the mesh did not start."""

    mesh: Mesh
    go: GoRunner


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """One mesh for the tests of this file; each kill is healed before the next test."""
    data_dir = tmp_path_factory.mktemp("mesh")
    port = free_ports()
    go_port = next(free for free in iter(free_ports, None) if free != port)
    runners = f"127.0.0.1:{port + 1},127.0.0.1:{go_port}"
    mesh = Mesh(data_dir, environment={"AGENTMESH_SERVICES__RUNNER__ADDRESS": runners})
    mesh.first_port = port
    go = GoRunner(f"127.0.0.1:{go_port}", Keyring(load_or_create_secret(data_dir)).role_token("router"))
    try:
        with mesh:
            asyncio.run(_until_served(mesh))
            yield Both(mesh, go)
    finally:
        go.kill()


async def _until_served(mesh: Mesh) -> None:
    async with open_channel(mesh.router) as channel, asyncio.timeout(20):
        while True:
            try:
                response = await pb_grpc.TaskServiceStub(channel).GetAgent(pb.GetAgentRequest(agent="go_echo"))
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.NOT_FOUND:
                    raise
            else:
                if response.agent.serving:
                    return
            await asyncio.sleep(0.1)


def go_echo(count: int, delay_ms: int = 0, prompt: str = "hello ") -> task_pb2.TaskSpec:
    return task_pb2.TaskSpec(
        agent="go_echo", prompt=prompt, parameters=to_struct({"count": count, "delay_ms": delay_ms})
    )


def deltas(log: Log, *, folded: bool = True) -> list[str]:
    events = log.folded() if folded else [event for _, _, event in log.entries]
    return [event.text_delta.text for event in events if event.HasField("text_delta")]


async def _started(both: Both, spec: task_pb2.TaskSpec, sequence: int) -> "asyncio.Task[Log]":
    """Run a task until so much of it was seen, and return what goes on reading it."""
    seen: asyncio.Queue[int] = asyncio.Queue()
    reading = asyncio.create_task(read_through(both.mesh.router, spec, str(uuid.uuid4()), seen=seen))
    await until_seen(reading, seen, sequence)
    return reading


async def test_tasks_run_on_the_go_runner_while_others_run_on_ours(both: Both) -> None:
    ours, theirs = echo(count=5), go_echo(5)
    logs = await asyncio.gather(
        *(read_through(both.mesh.router, spec, str(uuid.uuid4())) for spec in (ours, theirs) for _ in range(10))
    )
    assert [log.state for log in logs] == [events_pb2.TASK_STATE_COMPLETED] * 20
    assert [log.messages() for log in logs[:10]] == [["hello"] * 5] * 10
    assert [deltas(log) for log in logs[10:]] == [["hello "] * 5] * 10
    assert all(log.attempts == [1] for log in logs)
    assert logs[-1].entries[-1][2].state_changed.result.text == "hello "


async def test_a_killed_go_runner_is_folded_to_one_telling(both: Both) -> None:
    reading = await _started(both, go_echo(60, delay_ms=20), 20)
    both.go.kill()
    both.go.start()
    log = await asyncio.wait_for(reading, 40)
    assert log.state == events_pb2.TASK_STATE_COMPLETED
    assert log.attempts == [1, 2]
    assert len(deltas(log, folded=False)) > 60
    assert deltas(log) == ["hello "] * 60


async def test_killing_the_router_starts_no_second_attempt_on_the_go_runner(both: Both) -> None:
    reading = await _started(both, go_echo(60, delay_ms=20), 20)
    await asyncio.to_thread(both.mesh.kill, "router")
    log = await asyncio.wait_for(reading, 40)
    assert log.reconnects > 0
    assert log.attempts == [1]
    assert deltas(log, folded=False) == ["hello "] * 60
    assert log.state == events_pb2.TASK_STATE_COMPLETED


async def test_a_cancel_reaches_the_go_runner(both: Both) -> None:
    reading = await _started(both, go_echo(1000, delay_ms=50), 5)
    async with open_channel(both.mesh.router) as channel:
        stub = pb_grpc.TaskServiceStub(channel)
        (newest,) = (await stub.ListTasks(pb.ListTasksRequest(agent="go_echo", page_size=1))).tasks
        await stub.CancelTask(pb.CancelTaskRequest(task_id=newest.id))
    log = await asyncio.wait_for(reading, 10)
    assert log.task_id == newest.id
    assert log.state == events_pb2.TASK_STATE_CANCELED
