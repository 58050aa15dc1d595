"""Sends a response of unknown length, and stops making it as soon as nobody reads it."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send


class Streamed(Response):
    """A response whose body is an async generator, which is closed whatever way the response ends.

    The next piece is asked for only when the client has taken the last one.
    """

    def __init__(
        self, pieces: AsyncGenerator[bytes, None], *, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(None, status, headers)
        del self.headers["content-length"]
        for name, value in (headers or {}).items():
            self.headers[name] = value
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the body or the client ends."""
        sending = asyncio.create_task(self._send(send))
        leaving = asyncio.create_task(_disconnect(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.wait({sending, leaving})
        if not sending.cancelled():
            sending.result()

    async def _send(self, send: Send) -> None:
        async with aclosing(self._pieces) as pieces:
            start: Message = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            await send(start)
            async for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
