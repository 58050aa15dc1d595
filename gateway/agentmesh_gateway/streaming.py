"""Sends a response of unknown length, and stops making it as soon as nobody reads it."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Mapping
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

_T = TypeVar("_T")


class Streamed(Response):
    """A response whose body is an async generator, which is closed whatever way the response ends.

    The next piece is asked for only when the client has taken the last one. `first` is sent before all pieces: a
    generator that was begun to get it cleans up even if the client has left before anything could be sent.
    """

    def __init__(
        self,
        pieces: AsyncGenerator[bytes, None],
        *,
        first: bytes = b"",
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(None, status, headers)
        del self.headers["content-length"]
        for name, value in (headers or {}).items():
            self.headers[name] = value
        self._first = first
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the body or the client ends."""
        sending = asyncio.create_task(self._send(send))
        leaving = asyncio.create_task(left(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.wait({sending, leaving})
            await self._pieces.aclose()
        if not sending.cancelled():
            sending.result()

    async def _send(self, send: Send) -> None:
        start: Message = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        await send(start)
        if self._first:
            await send({"type": "http.response.body", "body": self._first, "more_body": True})
        async for piece in self._pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def while_connected(receive: Receive, work: Coroutine[Any, Any, _T]) -> _T:
    """Return what the work returns; cancel it and raise ClientDisconnect if the client leaves first.

    The body must have been read, because what is received meanwhile is dropped.
    """
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(left(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.wait({working, leaving})
    if working.cancelled():
        raise ClientDisconnect
    return working.result()


async def left(receive: Receive) -> None:
    """Wait until the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def first_of(batches: AsyncGenerator[_T, None], wait_s: float) -> "asyncio.Task[_T | None]":
    """Return the task that waits for the first batch, at the latest after `wait_s`; raise what was raised instead."""
    pending = asyncio.create_task(next_of(batches))
    try:
        await asyncio.wait({pending}, timeout=wait_s)
        if pending.done():
            pending.result()
    except BaseException:
        await close(pending, batches)
        raise
    return pending


async def next_of(batches: AsyncGenerator[_T, None]) -> _T | None:
    """Return the next batch; None after the last."""
    return await anext(batches, None)


async def close(pending: "asyncio.Task[_T | None]", batches: AsyncGenerator[_T, None]) -> None:
    """End what makes the batches, whatever it is doing."""
    pending.cancel()
    await asyncio.wait({pending})
    if not pending.cancelled():
        pending.exception()  # marks it as seen
    await batches.aclose()
