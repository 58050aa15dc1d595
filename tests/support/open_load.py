"""Submits at a rate whatever becomes of it, over RunTasks streams, and keeps an account of every submit."""

import asyncio
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc
from google.rpc import status_pb2

from agentmesh.api.task.v1 import task_pb2
from agentmesh.api.task.v1 import task_service_pb2 as pb
from agentmesh.api.task.v1 import task_service_pb2_grpc as pb_grpc
from agentmesh.kit.errors import MeshError, from_status
from agentmesh.kit.ids import new_id
from agentmesh.kit.rpc_client import bearer, open_channel
from agentmesh.kit.wire import TERMINAL
from tests.support.reading import echo

_MAX_BATCH = 32


@dataclass(frozen=True, slots=True)
class Refusal:
    """A submit that was refused, and how many seconds after it was sent."""

    status: status_pb2.Status
    after_s: float

    @property
    def error(self) -> MeshError:
        """Return what it was refused with; read only when asked for, because load must cost little itself."""
        return from_status(self.status)


class OpenLoad:
    """Use it as `async with OpenLoad(address) as load:`; each stream has a connection of its own."""

    def __init__(
        self, address: str, *, token: str = "", streams: int = 8, spec: task_pb2.TaskSpec | None = None
    ) -> None:
        self.offered = 0
        self.accepted: list[float] = []  # seconds from submit to acceptance
        self.completed: list[float] = []  # seconds from submit to the end
        self.refused: list[Refusal] = []
        self._spec = spec or echo(count=1)
        self._metadata = bearer(token) if token else ()
        self._channels = [open_channel(address) for _ in range(streams)]
        self._calls: list[Any] = []
        self._readers: list[asyncio.Task[None]] = []
        self._locks = [asyncio.Lock() for _ in range(streams)]
        self._sent: dict[str, float] = {}
        self._request_of: dict[str, str] = {}
        self._settled = asyncio.Event()
        self._name = new_id()

    async def __aenter__(self) -> Self:
        self._calls = [pb_grpc.TaskServiceStub(c).RunTasks(metadata=self._metadata) for c in self._channels]
        self._readers = [asyncio.create_task(self._read(call)) for call in self._calls]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for call, reader in zip(self._calls, self._readers, strict=True):
            call.cancel()
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        for channel in self._channels:
            await channel.close()

    @property
    def unanswered(self) -> int:
        """Submits that were neither refused nor ended."""
        return len(self._sent)

    def forget(self) -> None:
        """Begin a new account."""
        self._name = new_id()
        self.offered = 0
        self.accepted, self.completed, self.refused = [], [], []

    async def offer(self, rate: float, seconds: float) -> None:
        """Submit `rate` tasks a second for so long, round robin over the streams."""
        began = time.perf_counter()
        writes: set[asyncio.Task[None]] = set()
        sent = 0
        while (elapsed := time.perf_counter() - began) < seconds:
            while (due := min(_MAX_BATCH, int(elapsed * rate) - sent)) > 0:
                sent += due
                writes.add(task := asyncio.create_task(self._send(due, sent // _MAX_BATCH % len(self._calls))))
                task.add_done_callback(writes.discard)
            await asyncio.sleep(0.002)
        await asyncio.gather(*writes)

    async def keep(self, in_flight: int, seconds: float) -> None:
        """Keep so many tasks in flight for so long, as a client does that waits for its answers."""
        end = time.perf_counter() + seconds
        number = 0
        while time.perf_counter() < end:
            free = in_flight - len(self._sent)
            if free > 0:
                number += 1
                await self._send(min(_MAX_BATCH, free), number % len(self._calls))
            else:
                self._settled.clear()
                await self._settled.wait()

    async def finish(self, timeout_s: float) -> None:
        """Wait until every submit is refused or ended; raise TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while self._sent:
                self._settled.clear()
                await self._settled.wait()

    async def _send(self, count: int, stream: int) -> None:
        now = time.perf_counter()
        first = self.offered
        submits = [
            pb.RunTasksRequest.Submit(request_id=f"{self._name}-{first + number}", spec=self._spec)
            for number in range(count)
        ]
        self._sent.update((submit.request_id, now) for submit in submits)
        self.offered += count
        async with self._locks[stream]:
            await self._calls[stream].write(pb.RunTasksRequest(submits=submits))

    async def _read(self, call: Any) -> None:
        while (response := await call.read()) is not grpc.aio.EOF:
            now = time.perf_counter()
            for accepted in response.accepted:
                self._request_of[accepted.task_id] = accepted.request_id
                self.accepted.append(now - self._sent[accepted.request_id])
            for chunk in response.chunks:
                if chunk.events[-1].state_changed.state in TERMINAL:
                    self.completed.append(now - self._sent.pop(self._request_of.pop(chunk.task_id)))
            for refused in response.refused:
                self.refused.append(Refusal(refused.error, now - self._sent.pop(refused.request_id)))
            self._settled.set()
