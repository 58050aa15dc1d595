"""Attempts, and a whole runner, without a mesh: models and artifacts are never reached, time is the test's."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from agentmesh.api.llm.v1 import llm_service_pb2 as llm_pb
from agentmesh.api.runner.v1 import runner_service_pb2 as runner_pb
from agentmesh.api.task.v1 import events_pb2 as pb
from agentmesh.kit.clock import duration
from agentmesh.kit.errors import MeshError
from agentmesh.sdk import TaskContext, agent
from agentmesh_runner.hosts import HostPool
from agentmesh_runner.lease import Lease
from agentmesh_runner.registry import Registry
from agentmesh_runner.running import Running
from agentmesh_runner.service import RunnerService
from agentmesh_runner.session import Session

LEASE_S = 15.0


def running(session: Session, task_id: str = "t1", **fields: object) -> Running:
    """Make an attempt that speaks to a session and reaches neither models nor artifacts."""
    assignment = runner_pb.Assignment(task_id=task_id, attempt=1, tenant="acme", **fields)  # type: ignore[arg-type]
    return Running(assignment, None, None, session.speak)  # type: ignore[arg-type]


def delta(text: str) -> pb.TaskEvent:
    """Write a text delta."""
    return pb.TaskEvent(text_delta=pb.TextDelta(text=text))


class HeldModels:
    """A model that answers when the test says so; each call by its key."""

    def __init__(self) -> None:
        self.asked: dict[str, float] = {}
        self.canceled: list[str] = []
        self.answering = asyncio.Event()
        self.error: MeshError | None = None

    async def generate(
        self, request: llm_pb.GenerateRequest, *, token: str, traceparent: str, timeout_s: float
    ) -> AsyncGenerator[llm_pb.Delta, None]:
        """Note the call and the time that it gets."""
        self.asked[request.idempotency_key] = timeout_s
        await self.answering.wait()
        if self.error is not None:
            raise self.error
        yield llm_pb.Delta(finish=llm_pb.Finish(reason=llm_pb.FINISH_REASON_STOP, model="m"))

    async def cancel(self, idempotency_key: str, *, token: str) -> None:
        """Note the cancel."""
        self.canceled.append(idempotency_key)


@agent("thinker", inline=True)
async def thinker(ctx: TaskContext) -> None:
    """Ask a model."""
    await ctx.llm("well?", key="q")


@agent("sleeper", inline=True)
async def sleeper(ctx: TaskContext) -> None:
    """Sleep until stopped."""
    await asyncio.Event().wait()


@agent("asker", inline=True)
async def asker(ctx: TaskContext) -> None:
    """Wait for an answer."""
    await ctx.input("well?", key="q")


@agent("outsider")
async def outsider(ctx: TaskContext) -> None:
    """Would run in a process of its own."""


class Runner:
    """A runner whose clock stands still until the test moves it; routers are whoever connects."""

    def __init__(self, *agents: type[Any], hosts: HostPool | None = None) -> None:
        self.time = 1000.0
        self.models = HeldModels()
        self.lease = Lease(lambda: self.time)
        known = {kind.name: kind for kind in (sleeper, asker, thinker, outsider, *agents)}
        self.service = RunnerService(
            "r:1",
            Registry(known),
            self.models,
            None,  # type: ignore[arg-type]
            hosts or HostPool(3, ()),
            slots=8,
            lease_ttl_s=LEASE_S,
            heartbeat_s=5,
            lease=self.lease,
        )

    def connect(self, router_id: str) -> "Router":
        """Let a router connect."""
        return Router(self.service, self.service.connect(runner_pb.RouterHello(router_id=router_id)))


class Router:
    """What a router reads from its stream and says on it."""

    def __init__(self, service: RunnerService, session: Session) -> None:
        self.service = service
        self.session = session
        self.heard: list[runner_pb.ExecuteTasksResponse] = []
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self.session.messages():
            self.heard.append(message)

    def say(self, **fields: Any) -> None:
        """Send a message down."""
        self.service.hear(self.session, runner_pb.ExecuteTasksRequest(**fields))

    def assign(self, *task_ids: str, agent: str = "sleeper", **fields: Any) -> None:
        """Send assignments, in one message."""
        self.say(assignments=[self.assignment(task_id, agent, **fields) for task_id in task_ids])

    @staticmethod
    def assignment(task_id: str, agent: str, **fields: Any) -> runner_pb.Assignment:
        """Write an assignment of a first attempt."""
        assignment = runner_pb.Assignment(task_id=task_id, attempt=1, tenant="acme", **fields)
        assignment.spec.agent = agent
        return assignment

    def adopt(self, resume: runner_pb.Resume) -> None:
        """Take over an attempt that was offered."""
        again = runner_pb.Adopted(task_id=resume.task_id, attempt=resume.attempt, acked_offset=resume.acked_offset)
        self.say(adopted=[again])

    def renew(self, heartbeat: int) -> None:
        """Answer a heartbeat."""
        self.say(lease=runner_pb.LeaseRenewed(heartbeat=heartbeat, ttl=duration(LEASE_S)))

    def hang_up(self) -> None:
        """Let the stream end."""
        self.service.disconnect(self.session)

    @property
    def offers(self) -> list[list[str]]:
        """The tasks that each hello offers."""
        return [[one.task_id for one in m.hello.running] for m in self.heard if m.HasField("hello")]

    @property
    def elsewhere(self) -> list[tuple[int, dict[str, int]]]:
        """What was told of slots that others use."""
        told = [m.slots_elsewhere for m in self.heard if m.HasField("slots_elsewhere")]
        return [(slots.used, dict(slots.used_by_agent)) for slots in told]

    @property
    def outcomes(self) -> dict[str, runner_pb.Outcome]:
        """How attempts ended."""
        return {b.task_id: b.outcome for m in self.heard for b in m.events if b.HasField("outcome")}


async def turns(count: int = 50) -> None:
    """Let everything run that can."""
    for _ in range(count):
        await asyncio.sleep(0)
