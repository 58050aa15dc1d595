"""What one attempt has said and storage has not confirmed yet, ready to be sent, and to be sent again."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from agentmesh.api.runner.v1 import runner_service_pb2 as pb
from agentmesh.api.task.v1 import events_pb2
from agentmesh.kit import names
from agentmesh.kit.wire import varint
from agentmesh.sdk.errors import AgentError

MAX_UNACKED_BYTES = 1024 * 1024
_EVENT_TAG = b"\x22"  # EventList.events: field 4, length-delimited
_MAX_GROUP_BYTES = names.MAX_BATCH_BYTES - 64 * 1024


@dataclass(slots=True)
class _Group:
    """Events that are committed together or not at all, with the steps that they complete."""

    events: bytes
    count: int
    steps: Sequence[pb.StepRecord]
    outcome: pb.Outcome | None = None

    @property
    def offsets(self) -> int:
        return self.count + (self.outcome is not None)


class AttemptLog:
    """Offsets count events, and the outcome. At most about 1 MiB is unconfirmed; then `say` waits.

    `traceparent` goes out with the outcome.
    """

    def __init__(self, task_id: str, attempt: int, traceparent: str = "") -> None:
        self._traceparent = traceparent
        self._task_id = task_id
        self._attempt = attempt
        self._groups: deque[_Group] = deque()
        self._unsent = 0  # groups at the end that were not sent
        self._bytes = 0
        self._sent_offset = 0
        self._said_offset = 0
        self.acked_offset = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self.ended = False
        self._turn = asyncio.Lock()
        self._room = asyncio.Event()
        self._room.set()

    @property
    def confirmed(self) -> bool:
        """Whether everything is durable, the outcome too."""
        return self.ended and not self._groups

    @property
    def is_settled(self) -> bool:
        """Whether everything that was said is durable."""
        return self.acked_offset == self._said_offset

    @property
    def has_unsent(self) -> bool:
        """Whether there is something to send."""
        return self._unsent > 0

    async def say(self, events: Sequence[events_pb2.TaskEvent], steps: Sequence[pb.StepRecord] = ()) -> None:
        """Add events and the steps that they complete, as `encode` does."""
        await self.say_encoded(encode(events), len(events), steps)

    async def say_encoded(self, events: bytes, count: int, steps: Sequence[pb.StepRecord]) -> None:
        """Add what `encode` made of `count` events."""
        # In turn: a step's record tells what was said before it, so nothing may overtake what waits.
        async with self._turn:
            while self._bytes >= MAX_UNACKED_BYTES:
                self._room.clear()
                await self._room.wait()
            if self.ended:
                raise AgentError("ATTEMPT_ENDED", "the attempt has ended: nothing can be said any more")
            self._add(_Group(events, count, steps))

    async def settled(self) -> None:
        """Wait until what was said so far is acknowledged."""
        if not self.is_settled:
            reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((self._said_offset, reached))
            await reached

    def end(self, outcome: pb.Outcome) -> None:
        """Add the outcome; nothing may be said after it."""
        self.ended = True
        self._add(_Group(b"", 0, (), outcome))

    def take(self, max_bytes: int) -> pb.EventBatch | None:
        """Return the next batch to send, of at least one group."""
        if not self._unsent:
            return None
        first_index = len(self._groups) - self._unsent
        batch = pb.EventBatch(task_id=self._task_id, attempt=self._attempt, first_offset=self._sent_offset)
        parts: list[bytes] = []
        size = count = 0
        for group in islice(self._groups, first_index, None):
            if parts and size + len(group.events) > max_bytes:
                break
            for record in group.steps:
                step = batch.steps.add()
                step.CopyFrom(record)
                step.event_index = count + record.event_index
            parts.append(group.events)
            size += len(group.events) + sum(len(record.result) for record in group.steps)
            count += group.count
            self._unsent -= 1
            self._sent_offset += group.offsets
            if group.outcome is not None:
                batch.outcome.CopyFrom(group.outcome)
                batch.traceparent = self._traceparent
        batch.events = b"".join(parts)
        return batch

    def ack(self, offset: int) -> None:
        """Forget what is durable."""
        while self._groups and self.acked_offset + self._groups[0].offsets <= offset:
            group = self._groups.popleft()
            self.acked_offset += group.offsets
            self._bytes -= len(group.events)
        while self._waiting and self._waiting[0][0] <= self.acked_offset:
            reached = self._waiting.popleft()[1]
            if not reached.done():
                reached.set_result(None)
        self._unsent = min(self._unsent, len(self._groups))
        if self._bytes < MAX_UNACKED_BYTES:
            self._room.set()

    def rewind(self, offset: int) -> None:
        """Send everything from an offset on again."""
        self.ack(offset)
        self._unsent = len(self._groups)
        self._sent_offset = self.acked_offset

    def _add(self, group: _Group) -> None:
        self._groups.append(group)
        self._unsent += 1
        self._said_offset += group.offsets
        self._bytes += len(group.events)


def encode(events: Sequence[events_pb2.TaskEvent]) -> bytes:
    """Write events as an EventList; raise AgentError if one is too large, or all of them are."""
    encoded = [event.SerializeToString() for event in events]
    if any(len(data) > names.MAX_EVENT_BYTES for data in encoded):
        raise AgentError("EVENT_TOO_LARGE", "an event is larger than 256 KiB: make an artifact of it")
    data = b"".join(_EVENT_TAG + varint(len(event)) + event for event in encoded)
    if len(data) > _MAX_GROUP_BYTES:
        raise AgentError("STEP_TOO_LARGE", "a step said more than 960 KiB: make artifacts of it")
    return data
