"""A TCP proxy that a test puts before any address, to make the network misbehave on command."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Self

_PIECE = 64 * 1024
_CONNECT_S = 5.0


class FaultProxy:
    """Forwards to `target`, in a thread of its own; use it as `with FaultProxy(target) as proxy:`.

    Faults hold for open and new connections until `heal`, but `reset` and `half_close`, which happen once to those
    that are open, and `drop_reply`, which happens once.
    """

    def __init__(self, target: str, *, port: int = 0) -> None:
        self.target = target
        self.accepted = 0
        """Connections so far."""
        self.dropped = 0
        """Replies that `drop_reply` cut off."""
        self.address = ""
        self._port = port
        self._delay_s = 0.0
        self._refusing = False
        self._left: int | None = None  # bytes of replies until the cut
        self._marker: bytes | None = None
        self._links: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        self._flowing: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.address = self._do(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def delay(self, milliseconds: float) -> None:
        """Forward each piece, in both directions, so much later."""
        self._delay_s = milliseconds / 1000

    def blackhole(self) -> None:
        """Accept connections and bytes, and forward nothing; what came meanwhile goes on after `heal`."""
        self._call(lambda: self._events().clear())

    def refuse(self) -> None:
        """Reset what is open and every new connection."""
        self._refusing = True
        self.reset()

    def reset(self) -> None:
        """Reset the open connections."""
        self._call(lambda: _each(self._links, _Link.reset))

    def half_close(self) -> None:
        """Tell the clients of open connections that nothing more will come, and go on forwarding what they send."""
        self._call(lambda: _each(self._links, _Link.half_close))

    def cut_after(self, count: int) -> None:
        """Reset every connection once `count` more bytes of replies have been forwarded over all of them."""

        def arm() -> None:
            self._left = count

        self._call(arm)

    def drop_reply(self, marker: bytes = b"") -> None:
        """Forward the next request that contains `marker`, and reset its connection instead of forwarding a reply.

        What the server did stays done: this is the lost answer to a COMMIT.
        """

        def arm() -> None:
            self._marker = marker

        self._call(arm)

    def heal(self) -> None:
        """Forward again as if nothing had been."""

        def healed() -> None:
            self._delay_s, self._refusing, self._left, self._marker = 0.0, False, None, None
            self._events().set()

        self._call(healed)

    @property
    def open_connections(self) -> int:
        """Number of connections that are open now."""
        return len(self._links)

    def close(self) -> None:
        """Stop listening and reset what is open."""
        if self._thread.is_alive():
            self._do(self._close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()

    # -- inside, on the thread of the loop -----------------------------------------------------------------

    async def _listen(self) -> str:
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, limit=_PIECE)
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"{host}:{port}"

    async def _close(self) -> None:
        self._server.close()
        for link in list(self._links):
            link.reset()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        link = _Link(reader, writer)
        if self._refusing:
            link.reset()
            return
        self._links.add(link)
        try:
            await self._events().wait()
            await link.connect(self.target)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(link, reader, link.server, is_reply=False))
                pumps.create_task(self._pump(link, link.from_server, writer, is_reply=True))
        except* (OSError, asyncio.CancelledError, TimeoutError):
            pass  # the one end is gone: so is the other
        finally:
            self._links.discard(link)
            link.reset()

    async def _pump(
        self, link: "_Link", source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, is_reply: bool
    ) -> None:
        while data := await source.read(_PIECE):
            if self._delay_s:
                await asyncio.sleep(self._delay_s)
            await self._events().wait()
            if is_reply:
                data = self._cut(link, data)
            elif self._marker is not None and self._marker in data:
                self._marker, link.drops_reply = None, True
            if data and not (is_reply and link.half_closed):
                sink.write(data)
                await sink.drain()
            if link.is_over:
                raise ConnectionResetError
        with contextlib.suppress(OSError):
            sink.write_eof()

    def _cut(self, link: "_Link", data: bytes) -> bytes:
        """Return what of a reply goes through, and mark the link if that is its end."""
        if link.drops_reply:
            self.dropped += 1
            link.is_over = True
            return b""
        if self._left is None:
            return data
        link.is_over = len(data) >= self._left
        data = data[: self._left]
        self._left -= len(data)
        return data

    def _events(self) -> asyncio.Event:
        assert self._flowing is not None, "the proxy is not open"
        return self._flowing

    def _call(self, action: Callable[[], object]) -> None:
        async def run() -> None:
            action()

        self._do(run())

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_CONNECT_S)


class _Link:
    """One connection: the client's end and the server's."""

    def __init__(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self.from_client = reader
        self.client = client
        self.from_server: asyncio.StreamReader
        self.server: asyncio.StreamWriter
        self.drops_reply = False
        self.half_closed = False
        self.is_over = False
        self._ends = [client]

    async def connect(self, target: str) -> None:
        """Connect to the server."""
        host, _, port = target.rpartition(":")
        async with asyncio.timeout(_CONNECT_S):
            self.from_server, self.server = await asyncio.open_connection(host, int(port), limit=_PIECE)
        self._ends.append(self.server)

    def half_close(self) -> None:
        """Send the client a FIN."""
        self.half_closed = True
        with contextlib.suppress(OSError, RuntimeError):
            self.client.write_eof()

    def reset(self) -> None:
        """Send both ends an RST."""
        for end in self._ends:
            raw = end.get_extra_info("socket")
            if raw is not None and not end.transport.is_closing():
                with contextlib.suppress(OSError):
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.transport.abort()


def _each(links: "set[_Link]", action: "Callable[[_Link], None]") -> None:
    for link in list(links):
        action(link)
