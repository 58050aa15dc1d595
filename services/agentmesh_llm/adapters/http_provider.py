"""Carries questions to a provider over pooled HTTP connections, and its answers back, whatever language it speaks."""

import asyncio
import email.utils
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Protocol

import aiohttp
import orjson

from agentmesh.kit import names, tracing
from agentmesh.kit.errors import MeshError
from agentmesh.kit.model_settings import ProviderPool
from agentmesh_llm.adapters import provider_errors as errors
from agentmesh_llm.adapters.sse import SseParser
from agentmesh_llm.domain import Delta

_MAX_EVENT_BYTES = 1024 * 1024
_MAX_ERROR_BYTES = 64 * 1024
_MAX_RETRY_AFTER_S = 3600.0
_END_WAIT_S = 1.0


class AnswerReader(Protocol):
    """Turns the events of one answer into deltas."""

    @property
    def whole(self) -> bool:
        """Whether the terminal marker has come."""

    def read(self, data: bytes) -> list[Delta]:
        """Return the deltas of one event; raise the MeshError that it reports, or Unavailable if it is none."""

    def finish(self) -> list[Delta]:
        """Return the end of a whole answer; raise Unavailable if no reason came before the marker."""


class ProviderHttp:
    """The connections to one server with one credential.

    The address and every figure come from the configuration; proxies and credentials of the environment are not
    looked at, and redirects are not followed, because they would carry the key elsewhere.
    """

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str],
        pool: ProviderPool,
        refusal_of: Callable[[Any], MeshError],
    ) -> None:
        self._base_url = base_url
        # Compression would make the server wait for enough text to compress.
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", **headers}
        self._pool = pool
        self._refusal_of = refusal_of
        self._session: aiohttp.ClientSession | None = None

    async def stream(self, path: str, body: bytes, reader: AnswerReader) -> AsyncGenerator[Sequence[Delta], None]:
        """Stream an answer; closing the generator closes the socket."""
        parser = SseParser(_MAX_EVENT_BYTES)
        response = await self._post(path, body)
        try:
            while chunk := await self._read(response):
                deltas: list[Delta] = []
                for data in parser.feed(chunk):
                    try:
                        deltas += reader.read(data)
                        if reader.whole:
                            deltas += reader.finish()
                    except MeshError:
                        if deltas:
                            yield deltas
                        raise
                    if reader.whole:
                        yield deltas
                        await _read_end(response)
                        return
                if deltas:
                    yield deltas
            raise errors.interrupted()
        finally:
            # Closing, unlike releasing, never waits for the rest of an answer that nobody wants. A connection
            # whose answer was read to its end has gone back into the pool by then.
            response.close()

    async def fetch(self, path: str, body: bytes, max_bytes: int) -> bytes:
        """Return an answer that is no stream, at most `max_bytes` of it; raise Unavailable beyond."""
        try:
            async with asyncio.timeout(self._pool.total_timeout_s):
                response = await self._post(path, body)
                try:
                    return await self._read_whole(response, max_bytes)
                finally:
                    response.close()
        except TimeoutError:
            raise errors.stalled() from None

    async def aclose(self) -> None:
        """Close the pool."""
        if self._session is not None:
            await self._session.close()

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            pool = self._pool
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=pool.connections,
                    limit_per_host=pool.per_host,
                    ttl_dns_cache=int(pool.dns_ttl_s),
                    keepalive_timeout=pool.keep_alive_s,
                ),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=pool.connect_timeout_s),
                headers=self._headers,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return self._session

    async def _post(self, path: str, body: bytes) -> aiohttp.ClientResponse:
        """Send a request and return its good answer, not yet read; raise the MeshError that a bad one means."""
        try:
            async with asyncio.timeout(self._pool.idle_timeout_s):
                traceparent = tracing.outgoing.get()
                response = await self._open_session().post(
                    self._base_url + path,
                    data=body,
                    headers={names.TRACEPARENT: traceparent} if traceparent else None,
                    allow_redirects=False,
                )
        except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError):
            raise errors.unreachable() from None
        except TimeoutError:
            raise errors.stalled() from None
        except (aiohttp.ClientError, OSError):
            raise errors.unreachable() from None
        if response.status == 200:
            return response
        try:
            error = await self._read_error(response) if errors.holds_its_error(response.status) else None
            raise errors.of_status(response.status, error, _retry_after_s(response), self._refusal_of)
        finally:
            response.close()

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """Return the bytes that came, waiting for some; none at the end."""
        try:
            async with asyncio.timeout(self._pool.idle_timeout_s):
                return await response.content.readany()
        except TimeoutError:
            raise errors.stalled() from None
        except (aiohttp.ClientError, OSError):
            raise errors.interrupted() from None

    async def _read_whole(self, response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
        body = bytearray()
        while chunk := await self._read(response):
            body += chunk
            if len(body) > max_bytes:
                raise errors.garbage()
        return bytes(body)

    async def _read_error(self, response: aiohttp.ClientResponse) -> Any:
        try:
            body = orjson.loads(await self._read_whole(response, _MAX_ERROR_BYTES))
        except (MeshError, ValueError):
            return None  # the status says enough
        return body.get("error", body) if isinstance(body, dict) else None


async def _read_end(response: aiohttp.ClientResponse) -> None:
    """Read what follows the marker, normally nothing, so that the connection can be used again."""
    try:
        async with asyncio.timeout(_END_WAIT_S):
            while await response.content.readany():
                pass
    except (TimeoutError, aiohttp.ClientError, OSError):
        return  # the answer is whole; only the connection is lost


def _retry_after_s(response: aiohttp.ClientResponse) -> float:
    value = response.headers.get("Retry-After", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return errors.DEFAULT_RETRY_AFTER_S
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER_S) if seconds == seconds else errors.DEFAULT_RETRY_AFTER_S
