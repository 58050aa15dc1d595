"""Reads a task's log over raw gRPC through every fault, and holds it against the promises."""

import asyncio
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import grpc

from agentmesh.api.task.v1 import events_pb2, task_pb2
from agentmesh.api.task.v1 import task_service_pb2 as pb
from agentmesh.api.task.v1 import task_service_pb2_grpc as pb_grpc
from agentmesh.kit.rpc_client import open_channel
from agentmesh.sdk.agent import to_struct

_BROKEN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN)
_TERMINAL = (3, 4, 5, 7)


Entry = tuple[int, int, events_pb2.TaskEvent]
"""Sequence, attempt, event."""


@dataclass
class Log:
    """A task's events as a reader saw them: (sequence, attempt, event), each checked to be the next one."""

    task_id: str = ""
    entries: list[Entry] = field(default_factory=list)
    reconnects: int = 0

    @property
    def last_sequence(self) -> int:
        """Return the newest sequence."""
        return self.entries[-1][0] if self.entries else 0

    @property
    def state(self) -> int:
        """Return the last state that was said."""
        return next(e.state_changed.state for _, _, e in reversed(self.entries) if e.HasField("state_changed"))

    @property
    def ended(self) -> bool:
        """Whether the terminal event has come."""
        return bool(self.entries) and self.state in _TERMINAL

    @property
    def attempts(self) -> list[int]:
        """Return the attempts that were started."""
        return [e.attempt_started.attempt for _, _, e in self.entries if e.HasField("attempt_started")]

    def add(self, chunk: events_pb2.EventChunk) -> None:
        """Take a chunk in; a gap, a double or an event after the end fails the test."""
        self.task_id = chunk.task_id
        for position, event in enumerate(chunk.events):
            sequence = chunk.first_sequence + position
            assert sequence == self.last_sequence + 1, f"{sequence} came after {self.last_sequence}"
            assert not self.ended, f"{sequence} came after the terminal event"
            self.entries.append((sequence, chunk.attempt, event))

    def folded(self) -> list[events_pb2.TaskEvent]:
        """Return the events that still hold."""
        return fold(self.entries)

    def messages(self, *, folded: bool = True) -> list[str]:
        """Return the texts of whole messages."""
        events = self.folded() if folded else [event for _, _, event in self.entries]
        return [text_of(event) for event in events if event.HasField("message")]


def fold(entries: Iterable[Entry]) -> list[events_pb2.TaskEvent]:
    """Fold by the rule of the contract, apart from the client's own code: see AttemptStarted in events.proto."""
    kept: list[Entry] = []
    for sequence, attempt, event in entries:
        if event.HasField("attempt_started"):
            after = event.attempt_started.supersedes_after_sequence
            done = {e.step_completed.key for s, a, e in kept if (s <= after or not a) and e.HasField("step_completed")}
            kept = [(s, a, e) for s, a, e in kept if a == 0 or (s <= after and (not e.step or e.step in done))]
        kept.append((sequence, attempt, event))
    return [event for _, _, event in kept]


def text_of(event: events_pb2.TaskEvent) -> str:
    """Return the text of a message."""
    return str(event.message.parts[0].text)


def echo(prompt: str = "hello", **parameters: object) -> task_pb2.TaskSpec:
    """Return a task for the echo agent."""
    return task_pb2.TaskSpec(agent="echo", prompt=prompt, parameters=to_struct(parameters))


async def read_through(
    address: str,
    spec: task_pb2.TaskSpec,
    request_id: str,
    *,
    seen: asyncio.Queue[int] | None = None,
    log: Log | None = None,
) -> Log:
    """Submit a task and read it to its end, coming back after every break, at the next of several addresses.

    `seen` is told each sequence; `log` is what is filled.
    """
    log = Log() if log is None else log
    async with AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(open_channel(one)) for one in address.split(",")]
        stubs: list[Any] = [pb_grpc.TaskServiceStub(channel) for channel in channels]
        while not log.ended:
            stub = stubs[log.reconnects % len(stubs)]
            try:
                if log.task_id:
                    call = stub.WatchTask(pb.WatchTaskRequest(task_id=log.task_id, after_sequence=log.last_sequence))
                else:
                    call = stub.StreamTask(pb.StreamTaskRequest(request_id=request_id, spec=spec))
                async for response in call:
                    for chunk in response.chunks:
                        log.add(chunk)
                    if seen is not None:
                        seen.put_nowait(log.last_sequence)
            except grpc.aio.AioRpcError as error:
                if error.code() not in _BROKEN:
                    raise
                log.reconnects += 1
                await asyncio.sleep(0.05)
    return log


async def until_seen(reading: "asyncio.Task[Log]", seen: "asyncio.Queue[int]", sequence: int) -> None:
    """Wait until a reader has come to a sequence; raises what the reader raised."""
    async with asyncio.timeout(30):
        while True:
            getting = asyncio.create_task(seen.get())
            await asyncio.wait({getting, reading}, return_when=asyncio.FIRST_COMPLETED)
            if not getting.done():
                getting.cancel()
                reading.result()
                raise AssertionError("the task ended before it came so far")
            if getting.result() >= sequence:
                return
