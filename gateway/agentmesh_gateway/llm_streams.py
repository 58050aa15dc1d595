"""Streams a model's answer as server-sent events in a vendor's form, and keeps silent ones alive."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.kit.errors import MeshError
from agentmesh_gateway import metrics, streaming
from agentmesh_gateway.llm_calls import LlmCalls
from agentmesh_gateway.sse import EVENT_STREAM
from agentmesh_gateway.streaming import Streamed, while_connected
from agentmesh_gateway.upstream import Metadata

_Batches = AsyncGenerator[Sequence[pb.Delta], None]
_Pending = asyncio.Task[Sequence[pb.Delta] | None]


class AnswerForm(Protocol):
    """How a vendor's clients read one answer."""

    heartbeat: bytes

    def opening(self) -> bytes:
        """Write what comes before the first piece."""

    def piece(self, delta: pb.Delta) -> bytes:
        """Write a piece; nothing if it only counts for the end. Raise a MeshError if it makes no sense."""

    def ending(self) -> bytes:
        """Write what says that the answer is whole."""

    def error(self, error: MeshError) -> bytes:
        """Write why the answer broke off."""


async def respond(
    calls: LlmCalls, asked: pb.GenerateRequest, request: Request, metadata: Metadata, form: AnswerForm
) -> Response:
    """Answer with a stream, whose client ends the call by leaving; raise what is known before the first piece.

    An answer that breaks off has an error where its end should be.
    """
    batches = calls.deltas(asked, request, metadata)
    first = streaming.first_of(batches, calls.bounds.first_delta_s)
    pending = await while_connected(request.receive, first)
    headers = {"content-type": EVENT_STREAM, "cache-control": "no-store", "x-accel-buffering": "no"}
    pieces = _written(pending, batches, form, calls.bounds.heartbeat_s)
    # Begun here, so that it ends the call even if nothing of it can be sent any more.
    return Streamed(pieces, first=await anext(pieces), headers=headers)


async def _written(
    pending: _Pending, batches: _Batches, form: AnswerForm, heartbeat_s: float
) -> AsyncGenerator[bytes, None]:
    metrics.open_streams.inc()
    try:
        yield form.opening()
        while True:
            await asyncio.wait({pending}, timeout=heartbeat_s)
            if not pending.done():
                yield form.heartbeat
                continue
            try:
                batch = pending.result()
                written = b"".join(map(form.piece, batch or ()))
            except MeshError as error:
                yield form.error(error)
                return
            if batch is None:
                yield form.ending()
                return
            if written:
                yield written
            pending = asyncio.create_task(streaming.next_of(batches))
    finally:
        metrics.open_streams.dec()
        await streaming.close(pending, batches)
