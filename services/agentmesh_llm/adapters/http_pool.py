"""Posts on aiohttp's pooled connections without its sessions, because those cost more than everything else in a call.

What a session adds are cookies, redirects, proxies, middlewares and a task that writes; a provider needs none of them.
docs/adr/0016 has the figures.
"""

import asyncio
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import aiohttp
from aiohttp.http import RawResponseMessage
from yarl import URL

from agentmesh.kit import names
from agentmesh.kit.model_settings import ProviderPool

_SENT_AT_ONCE = 32 * 1024  # bytes that a socket takes without waiting for its peer
_SWITCHING = 101


class HttpAnswer:
    """The head of an answer, and its body as it comes. A connection whose answer was read to its end is used again."""

    def __init__(
        self, connection: aiohttp.connector.Connection, message: RawResponseMessage, content: aiohttp.StreamReader
    ) -> None:
        self.status = message.code
        self.headers = message.headers
        self.read = content.readany
        """Wait for bytes and return them; none at the end. Raises TimeoutError, aiohttp.ClientError or OSError."""
        self.at_end = content.at_eof
        """Say whether everything was read."""
        self.close = connection.close
        """Give the answer up with its connection, unless it was read to its end. Closing twice is allowed."""
        content.on_eof(connection.release)


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
            # One timer for an answer, which every piece of it moves; it stands still while nobody reads.
            idle_s = self._pool.idle_timeout_s
            protocol.set_response_params(read_until_eof=True, read_timeout=idle_s)
            traced = f"{names.TRACEPARENT}: {traceparent}\r\n" if traceparent else ""
            head += f"{traced}Content-Length: {len(body)}\r\n\r\n".encode()
            if len(body) <= _SENT_AT_ONCE:
                transport.write(head + body)
            else:
                transport.writelines((head, body))
                # The timer begins once the body is sent; a long one may never be.
                await asyncio.wait_for(protocol._drain_helper(), idle_s)
            protocol.start_timeout()
            message, content = await protocol.read()
            while message.code < 200 and message.code != _SWITCHING:  # it says that there will be an answer
                message, content = await protocol.read()
        except BaseException:
            connection.close()
            raise
        return HttpAnswer(connection, message, content)

    async def aclose(self) -> None:
        """Close every connection."""
        if self._connector is not None:
            await self._connector.close()

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
