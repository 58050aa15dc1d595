"""Follows a task's events for one reader, and goes on by itself when the router is lost: no gap, no double."""

import asyncio
import random
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from agentmesh.api.task.v1 import events_pb2, task_service_pb2
from agentmesh.kit import errors, telemetry
from agentmesh_gateway import metrics
from agentmesh_gateway.settings import Bounds
from agentmesh_gateway.upstream import Metadata, Upstream

log = telemetry.logger(__name__)

_METHODS = task_service_pb2.DESCRIPTOR.services_by_name["TaskService"].methods_by_name
STREAM_TASK: MethodDescriptor = _METHODS["StreamTask"]
WATCH_TASK: MethodDescriptor = _METHODS["WatchTask"]
SUBMIT_TASK: MethodDescriptor = _METHODS["SubmitTask"]
_GET_TASK = _METHODS["GetTask"]
_CANCEL_TASK = _METHODS["CancelTask"]

TERMINAL = frozenset(
    {
        events_pb2.TASK_STATE_COMPLETED,
        events_pb2.TASK_STATE_FAILED,
        events_pb2.TASK_STATE_CANCELED,
        events_pb2.TASK_STATE_REJECTED,
    }
)

_cancelling: set[asyncio.Task[None]] = set()


@dataclass(frozen=True, slots=True)
class Said:
    """An event with the place that it has in its task's log."""

    task_id: str
    attempt: int
    sequence: int
    event: events_pb2.TaskEvent


class TaskEvents:
    """One reader's cursor into one task.

    Until `started` is set a failure is raised as it is, so that it can become the answer to the request; from
    then on the router is called again after each interruption, until `resume_attempts` of them come in a row.
    """

    def __init__(
        self, upstream: Upstream, metadata: Metadata, bounds: Bounds, method: MethodDescriptor, request: Any
    ) -> None:
        self.started = False
        self.ended = False
        self._upstream = upstream
        self._metadata = metadata
        self._bounds = bounds
        self._method = method
        self._request = request
        self._cancel_on_disconnect = False
        if method is STREAM_TASK:
            self._task_id, self._last = "", 0
            self._cancel_on_disconnect = request.cancel_on_disconnect
            # With an id, asking again after an interruption before the first event can't make a second task.
            request.request_id = request.request_id or f"gateway-{uuid.uuid4().hex}"
        else:
            self._task_id, self._last = request.task_id, request.after_sequence

    async def resume_after(self, sequence: int) -> None:
        """Turn a repeated StreamTask into a watch of the task that it made, after `sequence`; raise MeshErrors."""
        request = task_service_pb2.SubmitTaskRequest(request_id=self._request.request_id, spec=self._request.spec)
        accepted = await self._unary(SUBMIT_TASK, request)
        self._task_id, self._last = accepted.task.id, sequence
        self._watch()

    async def batches(self) -> AsyncGenerator[Sequence[Said], None]:
        """Yield new events in order until the terminal one; raise the MeshError that can't be overcome."""
        failures = 0
        try:
            while True:
                try:
                    async with aclosing(self._one_call()) as call:
                        async for batch in call:
                            failures = 0
                            yield batch
                    return
                except errors.MeshError as error:
                    failures += 1
                    if not self.started or not _may_pass(error) or failures > self._bounds.resume_attempts:
                        raise
                    log.info("stream_resumed", task_id=self._task_id, after=self._last, reason=error.reason)
                metrics.stream_resumes_total.inc()
                await asyncio.sleep(self._backoff_s(failures))
                if self._task_id:
                    self._watch()
        finally:
            if self._cancel_on_disconnect and self._task_id and not self.ended:
                await self._cancel()

    async def _one_call(self) -> AsyncGenerator[Sequence[Said], None]:
        heard = False
        opened = self._upstream.streaming(self._method, self._request, timeout_s=None, metadata=self._metadata)
        async with opened as call:
            async for response in call:
                heard = True
                batch = self._new(response.chunks)
                if batch:
                    yield batch
                if self.ended:
                    return
        # A watch that begins after the terminal event has nothing to say.
        if heard or self._method is not WATCH_TASK or not await self._nothing_is_left():
            raise errors.Unavailable("the stream was cut off", reason="STREAM_INTERRUPTED")
        self.ended = True

    def _new(self, chunks: Sequence[events_pb2.EventChunk]) -> list[Said]:
        batch: list[Said] = []
        for chunk in chunks:
            self._task_id = chunk.task_id
            for sequence, event in enumerate(chunk.events, start=chunk.first_sequence):
                if sequence <= self._last:
                    continue
                if sequence > self._last + 1:
                    log.error("gap_in_stream", task_id=chunk.task_id, after=self._last, sequence=sequence)
                    raise errors.Unavailable("the stream left events out", reason="STREAM_INTERRUPTED")
                self._last = sequence
                batch.append(Said(chunk.task_id, chunk.attempt, sequence, event))
                if event.HasField("state_changed") and event.state_changed.state in TERMINAL:
                    self.ended = True
        return batch

    def _watch(self) -> None:
        self._method = WATCH_TASK
        self._request = task_service_pb2.WatchTaskRequest(task_id=self._task_id, after_sequence=self._last)

    async def _nothing_is_left(self) -> bool:
        answer = await self._unary(_GET_TASK, task_service_pb2.GetTaskRequest(task_id=self._task_id))
        return answer.task.state in TERMINAL and answer.task.last_sequence <= self._last

    async def _cancel(self) -> None:
        # The router does it for the call that submitted the task, but that call may be long gone. It goes on
        # even when the reader's request is being torn down.
        task = asyncio.create_task(self._cancel_quietly())
        _cancelling.add(task)
        task.add_done_callback(_cancelling.discard)
        await asyncio.shield(task)

    async def _cancel_quietly(self) -> None:
        try:
            await self._unary(_CANCEL_TASK, task_service_pb2.CancelTaskRequest(task_id=self._task_id))
        except errors.MeshError as error:
            log.info("cancel_on_disconnect_failed", task_id=self._task_id, reason=error.reason)

    async def _unary(self, method: MethodDescriptor, request: Message) -> Any:
        return await self._upstream.unary(
            method, request, timeout_s=self._bounds.default_timeout_s, metadata=self._metadata
        )

    def _backoff_s(self, failures: int) -> float:
        longest: float = min(self._bounds.resume_backoff_s * 2 ** (failures - 1), self._bounds.resume_max_backoff_s)
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing


def _may_pass(error: errors.MeshError) -> bool:
    """Whether the router was lost, not the request refused: a service of ours signs its refusals with an id."""
    said_by_grpc = "error_id" not in error.metadata
    return isinstance(error, errors.Unavailable) or (
        said_by_grpc and isinstance(error, errors.Canceled | errors.Internal)
    )
