"""One connected router: what goes up to it, merged and in order."""

import asyncio
from collections.abc import AsyncIterator

from agentmesh.api.runner.v1 import runner_service_pb2 as pb
from agentmesh_runner.running import Running

_MAX_MESSAGE_BYTES = 1024 * 1024


class Session:
    """Collects what attempts have to say while the last message is being written."""

    def __init__(self, router_id: str) -> None:
        self.router_id = router_id
        self.attempts: dict[str, Running] = {}
        self.heartbeats: dict[int, float] = {}
        self.open = True
        self._next_heartbeat = 0
        self._dirty: dict[Running, None] = {}
        self._others: list[pb.ExecuteTasksResponse] = []
        self._woken = asyncio.Event()

    def speak(self, running: Running) -> None:
        """Hear that an attempt has something to send."""
        self._dirty[running] = None
        self._woken.set()

    def put(self, message: pb.ExecuteTasksResponse) -> None:
        """Queue a message that is not an attempt's."""
        self._others.append(message)
        self._woken.set()

    def beat(self, now: float, *, draining: bool) -> None:
        """Queue a heartbeat; the first is the hello, which counts as number 0."""
        self.heartbeats[self._next_heartbeat] = now
        if self._next_heartbeat:
            beat = pb.Heartbeat(number=self._next_heartbeat, draining=draining)
            self.put(pb.ExecuteTasksResponse(heartbeat=beat))
        self._next_heartbeat += 1
        self.heartbeats.pop(self._next_heartbeat - 20, None)

    def close(self) -> None:
        """End the stream."""
        self.open = False
        self._woken.set()

    async def messages(self) -> AsyncIterator[pb.ExecuteTasksResponse]:
        """Yield what is to be sent until closed."""
        while self.open:
            await self._woken.wait()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if not self.open:
                return
            message = self._collect()
            if message.ByteSize():
                yield message

    def _collect(self) -> pb.ExecuteTasksResponse:
        message = pb.ExecuteTasksResponse()
        if self._others:
            message = self._others.pop(0)
            for other in self._others:
                message.MergeFrom(other)
            self._others.clear()
        size = 0
        while self._dirty and size < _MAX_MESSAGE_BYTES:
            running = next(iter(self._dirty))  # in turn, so that a loud one silences nobody
            del self._dirty[running]
            while running.spawns and size < _MAX_MESSAGE_BYTES:
                spawn = running.spawns.pop(0)
                message.spawns.append(spawn)
                size += spawn.ByteSize()
            if running.waiting_news is not None:
                message.waiting.add(task_id=running.task_id, attempt=running.attempt, waiting=running.waiting_news)
                running.waiting_news = None
            batch = running.log.take(_MAX_MESSAGE_BYTES - size) if size < _MAX_MESSAGE_BYTES else None
            if batch is not None:
                message.events.append(batch)
                size += batch.ByteSize()
            if running.log.has_unsent or running.spawns:
                self._dirty[running] = None
        if not self._dirty and not self._others:
            self._woken.clear()
        return message
