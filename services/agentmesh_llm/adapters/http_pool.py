"""Posts on aiohttp's pooled connections without its sessions, because those cost more than everything else in a call.

What a session adds are cookies, redirects, proxies, middlewares and a task that writes; a provider needs none of them.
docs/adr/0016 has the figures.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import NamedTuple, Protocol, TypeVar

import aiohttp
from aiohttp.http import RawResponseMessage
from yarl import URL

from agentmesh.kit import names
from agentmesh.kit.model_settings import ProviderPool

_SENT_AT_ONCE = 32 * 1024  # bytes that a socket takes without waiting for its peer
_SWITCHING = 101
_LOOKS = 10  # in the time that a server may be silent
T = TypeVar("T")


class _Source(Protocol):
    def set_exception(self, exc: BaseException) -> None:
        """End a read that waits."""


class _Patience:
    """Bounds how long a server may be silent, with one look at all who wait: a timer for each read costs as much as it.

    A read ends at most a tenth later than `longest_s`; who doesn't read never does.
    """

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self._waiting: dict[_Source, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self, source: _Source, read: Callable[[], Awaitable[T]]) -> T:
        """Read from a source; raise TimeoutError if nothing comes for too long."""
        loop = asyncio.get_running_loop()
        self._waiting[source] = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self._longest_s / _LOOKS, self._look)
        try:
            return await read()
        finally:
            del self._waiting[source]

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        latest = loop.time() - self._longest_s
        for source, since in self._waiting.items():
            if since <= latest:
                source.set_exception(aiohttp.SocketTimeoutError("the server is silent"))
        self._timer = loop.call_later(self._longest_s / _LOOKS, self._look) if self._waiting else None


class HttpAnswer:
    """The head of an answer, and its body as it comes. A connection whose answer was read to its end is used again."""

    def __init__(
        self,
        connection: aiohttp.connector.Connection,
        message: RawResponseMessage,
        content: aiohttp.StreamReader,
        patience: _Patience,
    ) -> None:
        self.status = message.code
        self.headers = message.headers
        self._content = content
        self._patience = patience
        self.at_end = content.at_eof
        """Say whether everything was read."""
        self.close = connection.close
        """Give the answer up with its connection, unless it was read to its end. Closing twice is allowed."""
        content.on_eof(connection.release)

    async def read(self) -> bytes:
        """Wait for bytes and return them; none at the end. Raises TimeoutError, aiohttp.ClientError or OSError."""
        return await self._patience.wait(self._content, self._content.readany)


class _Target(NamedTuple):
    """What the posts to one path have in common; `request` is what the connector knows the server by."""

    request: aiohttp.ClientRequest
    head: bytes


class HttpPool:
    """Connections to one server with one credential; every answer to a POST is returned, whatever its status."""

    def __init__(self, base_url: str, headers: Mapping[str, str], pool: ProviderPool) -> None:
        self._base_url = base_url
        # Compression would make the server wait for enough text to compress.
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", **headers}
        self._pool = pool
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=pool.connect_timeout_s)
        self._connector: aiohttp.TCPConnector | None = None
        self._patience = _Patience(pool.idle_timeout_s)
        self._target = lru_cache(self._target_of)

    async def post(self, path: str, body: bytes, traceparent: str = "") -> HttpAnswer:
        """Send a request and return its answer, not yet read.

        Raises TimeoutError if the server is silent for as long as the pool's settings let it be, aiohttp.ClientError,
        HttpProcessingError or OSError.
        """
        if self._connector is None:
            self._connector = self._open()
        request, head = self._target(path)
        connection = await self._connector.connect(request, [], self._timeout)
        try:
            protocol, transport = connection.protocol, connection.transport
            if protocol is None or transport is None:
                raise aiohttp.ServerDisconnectedError
            protocol.set_response_params(read_until_eof=True)
            traced = f"{names.TRACEPARENT}: {traceparent}\r\n" if traceparent else ""
            head += f"{traced}Content-Length: {len(body)}\r\n\r\n".encode()
            if len(body) <= _SENT_AT_ONCE:
                transport.write(head + body)
            else:
                transport.writelines((head, body))
                # A long one may never be sent.
                await asyncio.wait_for(protocol._drain_helper(), self._pool.idle_timeout_s)
            message, content = await self._patience.wait(protocol, protocol.read)
            while message.code < 200 and message.code != _SWITCHING:  # it says that there will be an answer
                message, content = await self._patience.wait(protocol, protocol.read)
        except BaseException:
            connection.close()
            raise
        return HttpAnswer(connection, message, content, self._patience)

    async def aclose(self) -> None:
        """Close every connection."""
        if self._connector is not None:
            await self._connector.close()
        self._patience.close()

    def _open(self) -> aiohttp.TCPConnector:
        pool = self._pool
        return aiohttp.TCPConnector(
            limit=pool.connections,
            limit_per_host=pool.per_host,
            ttl_dns_cache=int(pool.dns_ttl_s),
            keepalive_timeout=pool.keep_alive_s,
        )

    def _target_of(self, path: str) -> _Target:
        request = aiohttp.ClientRequest("POST", URL(self._base_url + path), headers=self._headers)
        lines = [f"POST {request.url.raw_path_qs} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in request.headers.items() if name != "Content-Length"]
        if any(character in line for line in lines for character in "\r\n\0"):
            raise ValueError("a header or the address of a provider has a line end in it")
        return _Target(request, "".join(f"{line}\r\n" for line in lines).encode())
