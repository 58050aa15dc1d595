"""What every transport shares: bytes of an answer become deltas until its marker, and errors name themselves."""

import asyncio
import email.utils
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, Protocol

import orjson

from agentmesh.kit.errors import MeshError
from agentmesh_llm.adapters import provider_errors as errors
from agentmesh_llm.adapters.sse import SseParser
from agentmesh_llm.domain import Delta

MAX_ERROR_BYTES = 64 * 1024
_END_WAIT_S = 1.0
_MAX_EVENT_BYTES = 1024 * 1024
_MAX_RETRY_AFTER_S = 3600.0


class AnswerReader(Protocol):
    """Turns the events of one answer into deltas."""

    @property
    def whole(self) -> bool:
        """Whether the terminal marker has come."""

    def read(self, data: bytes) -> list[Delta]:
        """Return the deltas of one event; raise the MeshError that it reports, or Unavailable if it is none."""

    def finish(self) -> list[Delta]:
        """Return the end of a whole answer; raise Unavailable if no reason came before the marker."""


class Carrier(Protocol):
    """The connections to one server with one credential."""

    def stream(self, path: str, body: bytes, reader: AnswerReader) -> AsyncGenerator[Sequence[Delta], None]:
        """Stream an answer; closing the generator closes the socket."""

    async def fetch(self, path: str, body: bytes, max_bytes: int) -> bytes:
        """Return an answer that is no stream, at most `max_bytes` of it; raise Unavailable beyond."""

    async def aclose(self) -> None:
        """Let go of every connection."""


class Endings:
    """Reads what follows whole answers, normally nothing, so that their connections can be used again.

    Nobody waits for it: who asked has the answer. A connection that doesn't come to its end in a second is closed.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, read: Callable[[], Awaitable[bytes]], close: Callable[[], Awaitable[None]]) -> None:
        """Read until nothing comes any more, then close. `read` raises MeshError if the connection is lost."""
        task = asyncio.create_task(_read_end(read, close))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """Close what is still open."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _read_end(read: Callable[[], Awaitable[bytes]], close: Callable[[], Awaitable[None]]) -> None:
    try:
        async with asyncio.timeout(_END_WAIT_S):
            while await read():
                pass
    except (TimeoutError, MeshError):
        return  # the answer is whole; only the connection is lost
    finally:
        await close()


class AnswerFeed:
    """Feeds the bytes of one answer to its reader; `error` is what it broke off with, if it did."""

    def __init__(self, reader: AnswerReader) -> None:
        self.error: MeshError | None = None
        self._reader = reader
        self._parser = SseParser(_MAX_EVENT_BYTES)

    def take(self, chunk: bytes) -> list[Delta]:
        """Return the deltas that came with these bytes, those before an error too."""
        deltas: list[Delta] = []
        try:
            for data in self._parser.feed(chunk):
                deltas += self._reader.read(data)
                if self._reader.whole:
                    return deltas + self._reader.finish()
        except MeshError as error:
            self.error = error
        return deltas


def error_object_of(body: bytes) -> Any:
    """Return the error object of a refusal's body, None if there is none."""
    try:
        value = orjson.loads(body)
    except ValueError:
        return None  # the status says enough
    return value.get("error", value) if isinstance(value, dict) else None


def retry_after_s_of(value: str) -> float:
    """Return how long a Retry-After header says to wait, in seconds or until a date."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return errors.DEFAULT_RETRY_AFTER_S
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER_S) if seconds == seconds else errors.DEFAULT_RETRY_AFTER_S
