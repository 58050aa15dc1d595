"""The Go runner keeps RunnerService's rules, seen from a router that the test plays."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from agentmesh.api.runner.v1 import runner_service_pb2 as pb
from agentmesh.api.runner.v1 import runner_service_pb2_grpc as pb_grpc
from agentmesh.api.task.v1 import events_pb2, task_pb2
from tests.support.go_tools import go_runner
from tests.support.ports import free_ports

# The first test pays for the build.
pytestmark = pytest.mark.timeout(300)

_TOKEN = (("authorization", "Bearer the-routers-token"),)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    address = f"127.0.0.1:{free_ports()}"
    environment = {"AGENTMESH_RUNNER_EXPECT_TOKEN": "the-routers-token"}
    with subprocess.Popen([str(go_runner()), address], env=environment) as process:
        try:
            yield address
        finally:
            process.kill()


@pytest.fixture
async def channel(address: str) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(address) as channel:
        await asyncio.wait_for(channel.channel_ready(), 20)
        yield channel


class Router:
    """One ExecuteTasks stream, seen from above; what the runner said is collected by attempt."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self.hello = pb.RunnerHello()
        self.offsets: list[int] = []
        self.texts: list[str] = []
        self.outcomes: list[str] = []
        self.heartbeats: list[int] = []

    async def send(self, **parts: Any) -> None:
        await self._call.write(pb.ExecuteTasksRequest(**parts))

    async def read(self) -> None:
        """Take one message in."""
        message = await asyncio.wait_for(self._call.read(), 10)
        if message is grpc.aio.EOF:
            raise EOFError
        if message.HasField("hello"):
            self.hello = message.hello
        if message.HasField("heartbeat"):
            self.heartbeats.append(message.heartbeat.number)
        for batch in message.events:
            said = events_pb2.EventList.FromString(batch.events).events
            self.offsets += range(batch.first_offset, batch.first_offset + len(said))
            self.texts += [event.text_delta.text for event in said]
            if batch.HasField("outcome"):
                self.offsets.append(batch.first_offset + len(said))
                self.outcomes.append(batch.outcome.WhichOneof("kind") or "")

    async def read_until_outcome(self) -> None:
        while not self.outcomes:
            await self.read()

    async def read_until_said(self, count: int) -> None:
        while len(self.offsets) < count:
            await self.read()

    async def read_until_end(self) -> None:
        with suppress(EOFError):
            while True:
                await self.read()

    async def read_until_silent(self, silence_s: float) -> None:
        """Take messages in until none came for that long; the stream can't be read after it."""
        with suppress(asyncio.TimeoutError):
            while True:
                await asyncio.wait_for(self.read(), silence_s)


@asynccontextmanager
async def routing(channel: grpc.aio.Channel, lease_s: float = 15) -> AsyncIterator[Router]:
    call = pb_grpc.RunnerServiceStub(channel).ExecuteTasks(metadata=_TOKEN)
    try:
        router = Router(call)
        hello = pb.RouterHello(router_id="router/1")
        hello.lease_ttl.FromMilliseconds(int(lease_s * 1000))
        await router.send(hello=hello)
        await router.read()
        yield router
    finally:
        call.cancel()


def assignment(task_id: str, *, count: int, delay_ms: int = 0) -> pb.Assignment:
    parameters = Struct()
    parameters.update({"count": count, "delay_ms": delay_ms})
    spec = task_pb2.TaskSpec(agent="go_echo", prompt="hello", parameters=parameters)
    return pb.Assignment(task_id=task_id, attempt=1, tenant="acme", spec=spec)


def stop(task_id: str, reason: str) -> pb.StopAttempt:
    return pb.StopAttempt(task_id=task_id, attempt=1, reason=pb.StopAttempt.Reason.Value(reason))


async def test_assignment_becomes_events_with_offsets_and_one_outcome(channel: grpc.aio.Channel) -> None:
    async with routing(channel) as router:
        assert [agent.name for agent in router.hello.agents] == ["go_echo"]
        await router.send(assignments=[assignment("plain", count=50)])
        await router.read_until_outcome()
        assert router.texts == ["hello"] * 50
        assert router.offsets == list(range(51))
        assert router.outcomes == ["completed"]
        await router.send(acks=[pb.AckedOffset(task_id="plain", attempt=1, offset=51)])


@pytest.mark.parametrize(("reason", "outcome"), [("CANCELED", "canceled"), ("DEADLINE", "failed")])
async def test_stopped_attempt_says_so_and_nothing_after(channel: grpc.aio.Channel, reason: str, outcome: str) -> None:
    async with routing(channel) as router:
        await router.send(assignments=[assignment(reason, count=1000, delay_ms=20)])
        await router.read_until_said(3)
        await router.send(stops=[stop(reason, f"REASON_{reason}")])
        await router.read_until_outcome()
        assert router.outcomes == [outcome]
        assert router.offsets == list(range(len(router.offsets)))
        await router.send(acks=[pb.AckedOffset(task_id=reason, attempt=1, offset=len(router.offsets))])
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(router.read(), 0.5)


async def test_stale_attempt_falls_silent_without_an_outcome(channel: grpc.aio.Channel) -> None:
    async with routing(channel) as router:
        await router.send(assignments=[assignment("stale", count=1000, delay_ms=20)])
        await router.read_until_said(3)
        await router.send(stops=[stop("stale", "REASON_STALE")])
        await router.read_until_silent(0.5)
        assert len(router.offsets) < 1000
        assert router.outcomes == []


async def test_what_ended_or_was_taken_away_is_not_offered_to_the_next_router(channel: grpc.aio.Channel) -> None:
    async with routing(channel) as first:
        await first.send(assignments=[assignment("ended", count=2)])
        await first.read_until_outcome()
        await first.send(acks=[pb.AckedOffset(task_id="ended", attempt=1, offset=3)])
        await first.send(assignments=[assignment("taken", count=1000, delay_ms=20)])
        await first.read_until_said(5)
        await first.send(stops=[stop("taken", "REASON_STALE")])
        await first.send(assignments=[assignment("open", count=1)])
        first.outcomes.clear()
        await first.read_until_outcome()  # so all of the above was heard
    async with routing(channel) as second:
        assert [resume.task_id for resume in second.hello.running] == ["open"]
        await second.send(stops=[stop("open", "REASON_STALE")])


async def test_attempt_outlives_its_stream_and_is_sent_again_from_the_acknowledged_offset(
    channel: grpc.aio.Channel,
) -> None:
    async with routing(channel) as first:
        await first.send(assignments=[assignment("outlives", count=30, delay_ms=20)])
        await first.read_until_said(6)
        await first.send(acks=[pb.AckedOffset(task_id="outlives", attempt=1, offset=2)])
        await first.read_until_said(8)
    async with routing(channel) as second:
        (running,) = [resume for resume in second.hello.running if resume.task_id == "outlives"]
        assert (running.attempt, running.acked_offset, running.tenant) == (1, 2, "acme")
        # More became durable than the first router had time to acknowledge.
        await second.send(adopted=[pb.Adopted(task_id="outlives", attempt=1, acked_offset=4)])
        await second.read_until_outcome()
        assert second.offsets == list(range(4, 31))
        assert second.outcomes == ["completed"]
        await second.send(acks=[pb.AckedOffset(task_id="outlives", attempt=1, offset=31)])


async def test_lost_lease_ends_the_stream_and_the_runner_comes_back_as_another_incarnation(
    channel: grpc.aio.Channel,
) -> None:
    async with routing(channel) as router:
        before = router.hello.incarnation
        await router.send(assignments=[assignment("lost", count=1000, delay_ms=20)])
        await router.read_until_said(3)
        await router.send(lease=pb.LeaseRenewed(heartbeat=0))
        async with asyncio.timeout(5):  # far less than what is left of the lease
            await router.read_until_end()
        assert router.outcomes == []
    async with routing(channel) as router:
        assert router.hello.incarnation != before
        assert list(router.hello.running) == []


async def test_heartbeats_count_from_1_on_each_stream(channel: grpc.aio.Channel) -> None:
    async with routing(channel) as router:
        while len(router.heartbeats) < 2:
            await router.read()
        assert router.heartbeats == [1, 2]


async def test_running_tasks_needs_the_routers_token(channel: grpc.aio.Channel) -> None:
    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    for metadata in ((), (("authorization", "Bearer another"),), (("authorization", "Bearer "),)):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await pb_grpc.RunnerServiceStub(channel).ExecuteTasks(metadata=metadata).read()
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


async def test_what_the_runner_leaves_out_is_unimplemented(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await pb_grpc.RunnerServiceStub(channel).ListAgents(pb.ListAgentsRequest(), metadata=_TOKEN, timeout=10)
    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_reflection_names_the_service(channel: grpc.aio.Channel) -> None:
    question = reflection_pb2.ServerReflectionRequest(list_services="")
    call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
        iter([question]), metadata=_TOKEN, timeout=10
    )
    async for answer in call:
        names = [service.name for service in answer.list_services_response.service]
        assert "agentmesh.api.runner.v1.RunnerService" in names
        return
    pytest.fail("no answer")


def test_the_runner_has_fewer_than_150_lines() -> None:
    sources = (Path(__file__).parent / "go").rglob("*.go")
    assert 0 < sum(len(source.read_text().splitlines()) for source in sources) < 150
