"""The one ExecuteTasks stream to one runner, kept up: what goes down is merged, what comes up is handed on."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from agentmesh.api.runner.v1 import runner_service_pb2 as pb
from agentmesh.api.runner.v1 import runner_service_pb2_grpc as pb_grpc
from agentmesh.kit import rpc_client, telemetry
from agentmesh.kit.errors import MeshError

log = telemetry.logger(__name__)

_MAX_MESSAGE_BYTES = 1024 * 1024
_HELLO_TIMEOUT_S = 10.0
_FIRST_BACKOFF_S = 0.1
_LAST_BACKOFF_S = 2.0


class Outbox:
    """Messages to one runner: what is said while the last one is being written goes into the next."""

    def __init__(self) -> None:
        self._messages = [pb.ExecuteTasksRequest()]
        self._bytes = 0
        self._wake = asyncio.Event()

    def open(self, size: int = 0) -> pb.ExecuteTasksRequest:
        """Return the message to add to; `size` is about how many bytes will be added."""
        self._bytes += size
        if self._bytes > _MAX_MESSAGE_BYTES:
            self._messages.append(pb.ExecuteTasksRequest())
            self._bytes = size
        self._wake.set()
        return self._messages[-1]

    async def take(self) -> pb.ExecuteTasksRequest:
        """Wait for something to send and return it, of about 1 MiB at most."""
        await self._wake.wait()
        # A write returns at once: two turns of the loop let a burst share a message.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        message = self._messages.pop(0)
        if not self._messages:
            self._messages.append(pb.ExecuteTasksRequest())
            self._bytes = 0
            self._wake.clear()
        return message


class RunnerLink:
    """A runner that presented itself. Slots count attempts that are assigned or about to be."""

    def __init__(self, address: str, hello: pb.RunnerHello) -> None:
        self.address = address
        self.name = hello.name
        self.incarnation = hello.incarnation
        self.outbox = Outbox()
        self.up = True
        self.draining = False
        self.claiming: set[str] = set()  # tasks that are being created for it
        self.unsure = False  # a claim's reply was lost: storage may hold tasks for it that nobody gave it
        self.slots = 0
        self.agents: dict[str, str] = {}
        self._agent_slots: dict[str, int] = {}
        self._used = 0
        self._used_by: Counter[str] = Counter()
        self._elsewhere = pb.SlotsElsewhere()
        self.update(hello)

    def update(self, hello: pb.RunnerHello) -> None:
        """Take in what the runner says of itself."""
        self.slots = hello.slots
        self.agents = {agent.name: agent.version for agent in hello.agents}
        self._agent_slots = dict(hello.agent_slots)

    def used_elsewhere(self, told: pb.SlotsElsewhere) -> None:
        """Take in what the runner does for other routers."""
        self._elsewhere = told

    @property
    def free(self) -> int:
        """How many attempts it can take now."""
        if not self.up or self.draining:
            return 0
        return max(0, self.slots - self._used - self._elsewhere.used)

    def free_for(self, agent: str) -> int:
        """How many attempts of one agent it can take now."""
        own = self._agent_slots.get(agent)
        if own is None:
            return self.free
        used = self._used_by[agent] + self._elsewhere.used_by_agent.get(agent, 0)
        return max(0, min(self.free, own - used))

    def use(self, agent: str, slots: int = 1) -> None:
        """Use slots for an agent; negative gives them back."""
        self._used += slots
        self._used_by[agent] += slots

    def send(self, **fields: Any) -> None:
        """Queue a message down."""
        if self.up:
            message = pb.ExecuteTasksRequest(**fields)
            self.outbox.open(message.ByteSize()).MergeFrom(message)

    def acknowledge(self, task_id: str, attempt: int, offset: int) -> None:
        """Queue what is durable; as `send`, for the hot path."""
        if self.up:
            self.outbox.open(64).acks.add(task_id=task_id, attempt=attempt, offset=offset)


OnHello = Callable[[str, pb.RunnerHello], Awaitable[RunnerLink]]
OnMessage = Callable[[RunnerLink, pb.ExecuteTasksResponse], Awaitable[None]]
OnLost = Callable[[RunnerLink], None]


class RunnerConnection:
    """Connects to the runner at one address, again and again, until cancelled."""

    def __init__(
        self,
        address: str,
        channel: grpc.aio.Channel,
        token: str,
        hello: pb.RouterHello,
        *,
        on_hello: OnHello,
        on_message: OnMessage,
        on_lost: OnLost,
    ) -> None:
        self._address = address
        self._method: Any = pb_grpc.RunnerServiceStub(channel).ExecuteTasks
        self._metadata = rpc_client.bearer(token)
        self._hello = hello
        self._on_hello = on_hello
        self._on_message = on_message
        self._on_lost = on_lost

    async def run(self) -> None:
        """Keep the stream up until cancelled."""
        backoff_s = _FIRST_BACKOFF_S
        while True:
            try:
                async with rpc_client.streaming(self._method, None, metadata=self._metadata) as call:
                    if await self._converse(call):
                        backoff_s = _FIRST_BACKOFF_S
            except (MeshError, TimeoutError, asyncio.InvalidStateError) as error:
                log.debug("runner_unreachable", address=self._address, kind=type(error).__name__)
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, _LAST_BACKOFF_S)

    async def _converse(self, call: Any) -> bool:
        async with asyncio.timeout(_HELLO_TIMEOUT_S):
            await call.write(pb.ExecuteTasksRequest(hello=self._hello))
            first = await call.read()
        if first is grpc.aio.EOF or not first.HasField("hello"):
            log.warning("runner_said_no_hello", address=self._address)
            return False
        link = await self._on_hello(self._address, first.hello)
        log.info("runner_connected", address=self._address, runner=link.incarnation, agents=sorted(link.agents))
        writer = asyncio.create_task(self._write(call, link))
        try:
            while (message := await call.read()) is not grpc.aio.EOF:
                await self._on_message(link, message)
        finally:
            link.up = False
            writer.cancel()
            self._on_lost(link)
            log.info("runner_disconnected", address=self._address, runner=link.incarnation)
        return True

    @staticmethod
    async def _write(call: Any, link: RunnerLink) -> None:
        try:
            while True:
                await call.write(await link.outbox.take())
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            call.cancel()  # the reader sees the end
