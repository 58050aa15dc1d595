"""Events as an HTTP stream: server-sent events that a browser resumes, or a JSON object a line."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Protocol

import orjson
from starlette.requests import Request
from starlette.responses import Response

from agentmesh.kit.errors import MeshError
from agentmesh_gateway import metrics, problems, streaming
from agentmesh_gateway.settings import Bounds
from agentmesh_gateway.streaming import Streamed
from agentmesh_gateway.task_events import Said, TaskEvents
from agentmesh_gateway.transcoding import json_of

EVENT_STREAM = "text/event-stream"
JSON_LINES = "application/x-ndjson"
_RECONNECT_MS = 1000
# Not line ends by the standard, but by the libraries that many readers split lines with.
_LINE_ENDS = tuple((character.encode(), b"\\u%04x" % ord(character)) for character in "\x85\u2028\u2029")


class Form(Protocol):
    """How events are written."""

    media_type: str
    opening: bytes
    heartbeat: bytes

    def event(self, said: Said) -> bytes:
        """Write one event."""

    def error(self, error: MeshError) -> bytes:
        """Write why the stream ends before the task does."""


class ServerSentEvents:
    """One event a frame: its payload's name, its sequence as the id, its JSON as the data."""

    media_type = EVENT_STREAM
    opening = b"retry: %d\n" % _RECONNECT_MS  # a field of the first frame
    heartbeat = b": still here\n\n"

    def event(self, said: Said) -> bytes:
        """Write one event."""
        name = said.event.WhichOneof("payload") or "unknown"
        return b"event: %b\nid: %d\ndata: %b\n\n" % (name.encode(), said.sequence, _json_of(said))

    def error(self, error: MeshError) -> bytes:
        """Write why the stream ends before the task does."""
        return b"event: error\ndata: %b\n\n" % problems.body_of(error)


class JsonLines:
    """One event a line; nothing is said in silence, because every line must be JSON."""

    media_type = JSON_LINES
    opening = b""
    heartbeat = b""

    def event(self, said: Said) -> bytes:
        """Write one event."""
        return _json_of(said) + b"\n"

    def error(self, error: MeshError) -> bytes:
        """Write why the stream ends before the task does."""
        return problems.body_of(error) + b"\n"


def form_for(request: Request) -> Form:
    """Choose by what the client accepts; server-sent events unless it wants JSON only."""
    accepted = request.headers.get("accept", "")
    wants_json = JSON_LINES in accepted or problems.JSON in accepted
    return JsonLines() if wants_json and EVENT_STREAM not in accepted else ServerSentEvents()


def last_event_id(request: Request) -> int | None:
    """Return the sequence that the client has already; None if it doesn't say, or says nothing."""
    text = request.headers.get("last-event-id", "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise problems.invalid("Last-Event-ID", "must be the id of an event: a sequence number")
    return int(text)


async def respond(events: TaskEvents, form: Form, bounds: Bounds, draining: asyncio.Event) -> Response:
    """Answer with a stream of events.

    Waits up to `first_event_s` for the router, so that its refusal has a status of its own; 204 if the reader has
    everything already, which also keeps a browser from asking again and again.
    """
    batches = events.batches()
    pending = await streaming.first_of(batches, bounds.first_event_s)
    if pending.done() and pending.result() is None:
        return Response(status_code=204)
    events.started = True
    headers = {"content-type": form.media_type, "cache-control": "no-store", "x-accel-buffering": "no"}
    return Streamed(_written(pending, batches, form, bounds, draining), headers=headers)


async def _written(
    pending: "asyncio.Task[Sequence[Said] | None]",
    batches: AsyncGenerator[Sequence[Said], None],
    form: Form,
    bounds: Bounds,
    draining: asyncio.Event,
) -> AsyncGenerator[bytes, None]:
    stopping = asyncio.create_task(draining.wait())
    metrics.open_streams.inc()
    try:
        if form.opening:
            yield form.opening
        while True:
            await asyncio.wait({pending, stopping}, timeout=bounds.heartbeat_s, return_when=asyncio.FIRST_COMPLETED)
            if pending.done():
                try:
                    batch = pending.result()
                except MeshError as error:
                    yield form.error(error)
                    return
                if batch is None:
                    return
                yield b"".join([form.event(said) for said in batch])
                pending = asyncio.create_task(streaming.next_of(batches))
            elif stopping.done():
                return
            elif form.heartbeat:
                yield form.heartbeat
    finally:
        metrics.open_streams.dec()
        stopping.cancel()
        await streaming.close(pending, batches)


def _json_of(said: Said) -> bytes:
    # The sequence is an int64 of the contract, which protobuf JSON writes as text.
    place = {"taskId": said.task_id, "sequence": str(said.sequence), "attempt": said.attempt}
    return on_one_line(place | json_of(said.event))


def on_one_line(value: Any) -> bytes:
    """Write JSON that no reader breaks into several lines."""
    data = orjson.dumps(value)
    for character, escape in _LINE_ENDS:
        data = data.replace(character, escape)
    return data
