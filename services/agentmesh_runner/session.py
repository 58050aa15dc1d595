"""One connected router: what goes up to it, merged and in order."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable

from agentmesh.api.runner.v1 import runner_service_pb2 as pb
from agentmesh_runner.running import Running

_MAX_MESSAGE_BYTES = 1024 * 1024
_KEPT_HEARTBEATS = 20
_SLOTS_PAUSE_S = 0.01  # between messages that hold nothing but slots used elsewhere


class Session:
    """Collects what attempts have to say while the last message is being written.

    `elsewhere` tells which slots are used for others; without it nobody else uses any.
    """

    def __init__(self, router_id: str, elsewhere: Callable[["Session"], pb.SlotsElsewhere] | None = None) -> None:
        self.router_id = router_id
        self.attempts: dict[str, Running] = {}
        self.used: Counter[str] = Counter()  # slots by agent, and all under ""
        self.open = True
        self.knows_of_drain = False
        self._heartbeats: dict[int, tuple[float, bool]] = {}
        self._elsewhere = elsewhere
        self._told_elsewhere = pb.SlotsElsewhere()
        self._slots_dirty = False
        self._slots_timer: asyncio.TimerHandle | None = None
        self._slots_told_at = 0.0
        self._next_heartbeat = 0
        self._dirty: dict[Running, None] = {}
        self._hello: pb.ExecuteTasksResponse | None = None
        self._others: list[pb.ExecuteTasksResponse] = []
        self._woken = asyncio.Event()

    def greet(self, hello: pb.RunnerHello) -> None:
        """Queue a hello; further ones until it is sent only add attempts to it."""
        if self._hello is None:
            self._hello = pb.ExecuteTasksResponse(hello=hello)
        else:
            self._hello.hello.running.extend(hello.running)
        self._woken.set()

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
        self._heartbeats[self._next_heartbeat] = now, draining
        if self._next_heartbeat:
            beat = pb.Heartbeat(number=self._next_heartbeat, draining=draining)
            self.put(pb.ExecuteTasksResponse(heartbeat=beat))
        self._next_heartbeat += 1
        self._heartbeats.pop(self._next_heartbeat - _KEPT_HEARTBEATS, None)

    def answered(self, heartbeat: int) -> float | None:
        """Hear that a heartbeat was answered; return when it was sent, if that is not too long ago."""
        sent, draining = self._heartbeats.get(heartbeat, (None, False))
        self.knows_of_drain |= draining
        return sent

    def slots_changed(self) -> None:
        """Hear that others use more or fewer slots; told with the next message, or soon in one of its own."""
        self._slots_dirty = True
        if self._slots_timer is None:
            loop = asyncio.get_running_loop()
            # At once when it is quiet; under load many changes share a message.
            due = max(loop.time(), self._slots_told_at + _SLOTS_PAUSE_S)
            self._slots_timer = loop.call_at(due, self._tell_slots)

    def close(self) -> None:
        """End the stream."""
        self.open = False
        if self._slots_timer is not None:
            self._slots_timer.cancel()
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

    def _tell_slots(self) -> None:
        self._slots_timer = None
        if self._slots_dirty:
            # The message is made in a moment, and what changes until then is in it: the pause begins here.
            self._slots_told_at = asyncio.get_running_loop().time()
            self._woken.set()

    def _collect(self) -> pb.ExecuteTasksResponse:
        if self._hello is not None:
            hello, self._hello = self._hello, None
            return hello  # of the first message a router reads nothing else
        message = pb.ExecuteTasksResponse()
        if self._others:
            message = self._others.pop(0)
            for other in self._others:
                message.MergeFrom(other)
            self._others.clear()
        if self._slots_dirty:
            self._add_slots(message)
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

    def _add_slots(self, message: pb.ExecuteTasksResponse) -> None:
        self._slots_dirty = False
        if self._elsewhere is None:
            return
        slots = self._elsewhere(self)
        if slots != self._told_elsewhere:
            self._told_elsewhere = slots
            self._slots_told_at = asyncio.get_running_loop().time()
            message.slots_elsewhere.CopyFrom(slots)
