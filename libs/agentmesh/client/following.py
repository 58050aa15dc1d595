"""Follows a task's log to its end over any number of broken calls, without a gap or a double."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from agentmesh.api.task.v1 import events_pb2
from agentmesh.api.task.v1 import task_service_pb2 as pb
from agentmesh.client.calls import Caller
from agentmesh.client.event import SequenceGap, ends_task, news_in
from agentmesh.client.repeating import is_worth_repeating
from agentmesh.kit.errors import MeshError, Unavailable

_CANCEL_S = 2.0


class Following:
    """One reader of one task. Give a request to submit the task, or the id of one that exists."""

    def __init__(
        self, caller: Caller, *, submit: pb.StreamTaskRequest | None = None, task_id: str = "", after_sequence: int = 0
    ) -> None:
        """A `submit` needs a request_id: it is sent again if nothing came back."""
        self._caller = caller
        self._submit = submit
        self.task_id = task_id
        self.last_sequence = after_sequence
        self.ended = False

    async def chunks(self) -> AsyncGenerator[events_pb2.EventChunk, None]:
        """Yield what comes, each event once. Raises MeshError when the mesh is out of reach for too long."""
        backoff = self._caller.backoff()
        try:
            while True:
                heard = self.last_sequence
                failure: MeshError = Unavailable("the stream ended before its task", reason="STREAM_INTERRUPTED")
                try:
                    async with aclosing(self._one_call()) as chunks:
                        async for chunk in chunks:
                            yield chunk
                    if self.ended:
                        return  # the call was read to its end: breaking it off would cost the server more
                except SequenceGap:
                    pass  # the next call asks for what is missing
                except MeshError as error:
                    if self.ended:
                        return
                    if not is_worth_repeating(error):
                        raise
                    failure = error
                if self.last_sequence > heard:
                    backoff = self._caller.backoff()
                await backoff.wait(failure)
        finally:
            if not self.ended and self.task_id and self._submit is not None and self._submit.cancel_on_disconnect:
                await self._cancel()

    async def _one_call(self) -> AsyncGenerator[events_pb2.EventChunk, None]:
        request: pb.StreamTaskRequest | pb.WatchTaskRequest
        if self.task_id:
            method = "WatchTask"
            request = pb.WatchTaskRequest(task_id=self.task_id, after_sequence=self.last_sequence)
        else:
            assert self._submit is not None
            method, request = "StreamTask", self._submit
        async with self._caller.streaming("tasks", method, request) as call:
            async for response in call:
                for raw in response.chunks:
                    chunk = news_in(raw, self.last_sequence)
                    if chunk is None:
                        continue
                    self._caller.heard()
                    self.task_id = chunk.task_id
                    self.last_sequence = chunk.first_sequence + len(chunk.events) - 1
                    self.ended = ends_task(chunk.events[-1])
                    yield chunk

    async def _cancel(self) -> None:
        """Cancel the task; the call that carried the wish may have been followed by a WatchTask, which has none."""
        try:
            async with self._caller.opened("tasks", "CancelTask") as cancel:
                request = pb.CancelTaskRequest(task_id=self.task_id)
                await cancel(request, timeout=_CANCEL_S, metadata=self._caller.metadata)
        except MeshError:
            return  # it has ended, or the mesh is out of reach: the task's own timeout bounds it
