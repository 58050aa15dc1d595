"""One task of a lane: what was asked, what has come of it, and who waits for more."""

import asyncio

from agentmesh.api.task.v1 import events_pb2
from agentmesh.api.task.v1 import task_service_pb2 as pb
from agentmesh.client.event import SequenceGap, ends_task, news_in
from agentmesh.kit.backoff import Backoff
from agentmesh.kit.errors import MeshError

MAX_BEHIND = 1000
"""Chunks that may wait for a reader."""


class Ride:
    """A task between its submit and its last event."""

    __slots__ = (
        "_rewatching",
        "_waiter",
        "abandoned",
        "backoff",
        "ended",
        "generation",
        "last_sequence",
        "log",
        "paused",
        "size",
        "streamed",
        "submit",
        "task_id",
    )

    def __init__(self, submit: pb.RunTasksRequest.Submit, *, streamed: bool = False) -> None:
        """A `streamed` one is bounded in what it keeps, because somebody takes it out with `take`."""
        self.submit = submit
        self.size = submit.ByteSize()
        self.streamed = streamed
        self.task_id = ""
        self.last_sequence = 0
        self.log: list[events_pb2.EventChunk] = []
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.generation = -1  # the call that the submit was written to
        self.paused = False
        self.abandoned = False
        self.backoff: Backoff | None = None
        self._rewatching = False
        self._waiter: asyncio.Future[None] | None = None

    @property
    def finished(self) -> bool:
        """Whether its end is known."""
        return self.ended.done() and not self.ended.cancelled()

    def watch(self) -> pb.RunTasksRequest.Watch:
        """Ask for what is missing."""
        return pb.RunTasksRequest.Watch(task_id=self.task_id, after_sequence=self.last_sequence)

    def request_size(self) -> int:
        """Bytes of its submit."""
        return self.size

    def add(self, chunk: events_pb2.EventChunk) -> bool:
        """Take a chunk in; return False if the router has to be told something."""
        if self.paused:
            return True  # will be read again
        if chunk.first_sequence == self.last_sequence + 1:
            news = chunk
        else:
            try:
                rest = news_in(chunk, self.last_sequence)
            except SequenceGap:
                # What was on its way while this ride was paused; one request brings what is missing.
                asked, self._rewatching = self._rewatching, True
                return asked
            if rest is None:
                return True
            news = rest
        self._rewatching = False
        events = news.events
        self.last_sequence += len(events)
        self.log.append(news)
        if ends_task(events[-1]):
            if not self.ended.done():
                self.ended.set_result(None)
        elif self.streamed and len(self.log) >= MAX_BEHIND:
            self.paused = True
        self._wake()
        return not self.paused

    def fail(self, error: MeshError) -> None:
        """End it with an error of the lane's."""
        if not self.ended.done():
            self.ended.set_exception(error)
            self.ended.exception()  # marks it as seen: the reader may be gone
        self._wake()

    async def take(self) -> list[events_pb2.EventChunk]:
        """Wait for chunks and take them out; empty at the end. Raises what the lane failed with."""
        if not self.log and not self.ended.done():
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        chunks, self.log = self.log, []
        if not chunks:
            self.ended.result()
        return chunks

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
