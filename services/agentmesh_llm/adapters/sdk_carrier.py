"""Carries questions through a vendor's own client library, for operators who want that one on the wire."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import httpx2

from agentmesh.kit import names, tracing
from agentmesh.kit.errors import MeshError
from agentmesh.kit.model_settings import ProviderPool
from agentmesh_llm.adapters import provider_errors as errors
from agentmesh_llm.adapters.answer_feed import (
    MAX_ERROR_BYTES,
    AnswerFeed,
    AnswerReader,
    Endings,
    error_object_of,
    retry_after_s_of,
)
from agentmesh_llm.domain import Delta

NO_KEY: Final = "none"
"""What a library is given that demands a key where there is none; it is not sent."""

# Of what a library writes; anything else would come from the environment.
_KEPT_HEADERS = frozenset({"accept", "connection", "content-length", "content-type", "host", "user-agent"})
_KEPT_PREFIX = "x-stainless-"
_BROKEN = (httpx2.HTTPError, httpx2.StreamError, OSError)


@dataclass(frozen=True, slots=True)
class VendorTypes:
    """The types of a vendor's library that its client is called with, or raises."""

    stream: Any
    status_error: type[Exception]
    connection_error: type[Exception]


class SdkCarrier:
    """One client of a vendor's library, with a connection pool of its own.

    The library sends the request, and its answer's bytes are read by the same readers as over our own connections:
    the libraries' readers take an answer that breaks off for a whole one.
    """

    def __init__(
        self,
        client: Any,  # AsyncOpenAI or AsyncAnthropic: one of them may not be installed
        types: VendorTypes,
        pool: ProviderPool,
        refusal_of: Callable[[Any], MeshError],
    ) -> None:
        self._client = client
        self._types = types
        self._pool = pool
        self._refusal_of = refusal_of
        self._endings = Endings()

    async def stream(self, path: str, body: bytes, reader: AnswerReader) -> AsyncGenerator[Sequence[Delta], None]:
        """Stream an answer; closing the generator closes the socket."""
        feed = AnswerFeed(reader)
        response = await self._post(path, body)
        chunks = response.aiter_bytes()
        try:
            while chunk := await self._read(chunks):
                if deltas := feed.take(chunk):
                    yield deltas
                if feed.error is not None:
                    raise feed.error
                if reader.whole:
                    return
            raise errors.interrupted()
        finally:
            if reader.whole:
                self._endings.start(partial(self._read, chunks), response.aclose)
            else:
                await response.aclose()

    async def fetch(self, path: str, body: bytes, max_bytes: int) -> bytes:
        """Return an answer that is no stream, at most `max_bytes` of it; raise Unavailable beyond."""
        try:
            async with asyncio.timeout(self._pool.total_timeout_s):
                response = await self._post(path, body)
                try:
                    return await self._read_whole(response, max_bytes)
                finally:
                    await response.aclose()
        except TimeoutError:
            raise errors.stalled() from None

    async def aclose(self) -> None:
        """Close the pool."""
        await self._endings.aclose()
        await self._client.close()

    async def _post(self, path: str, body: bytes) -> httpx2.Response:
        """Send a request and return its good answer, not yet read; raise the MeshError that a bad one means."""
        options = {"content": body, "cast_to": httpx2.Response, "stream": True, "stream_cls": self._types.stream}
        try:
            async with asyncio.timeout(self._pool.idle_timeout_s):
                response: httpx2.Response = await self._client.post(path, **options)
        except TimeoutError:
            raise errors.stalled() from None
        except self._types.connection_error:
            raise errors.unreachable() from None
        except self._types.status_error as refused:
            raise self._refusal(getattr(refused, "response", None)) from None
        if response.status_code == 200:
            return response
        await response.aclose()
        raise self._refusal(response)

    def _refusal(self, response: httpx2.Response | None) -> MeshError:
        if response is None:
            return errors.garbage()
        status = response.status_code
        error = error_object_of(response.content) if errors.holds_its_error(status) else None
        wait_s = retry_after_s_of(response.headers.get("Retry-After", ""))
        return errors.of_status(status, error, wait_s, self._refusal_of)

    async def _read(self, chunks: AsyncIterator[bytes]) -> bytes:
        """Return the bytes that came, waiting for some; none at the end."""
        try:
            async with asyncio.timeout(self._pool.idle_timeout_s):
                return await anext(chunks, b"")
        except TimeoutError:
            raise errors.stalled() from None
        except _BROKEN:
            raise errors.interrupted() from None

    async def _read_whole(self, response: httpx2.Response, max_bytes: int) -> bytes:
        body = bytearray()
        chunks = response.aiter_bytes()
        while chunk := await self._read(chunks):
            body += chunk
            if len(body) > max_bytes:
                raise errors.garbage()
        return bytes(body)


class _Transport(httpx2.AsyncHTTPTransport):
    """Sends what the configuration says and nothing of the environment, and bounds the bodies of refusals."""

    def __init__(self, pool: ProviderPool, headers: Mapping[str, str]) -> None:
        # One client speaks with one host.
        most = min(pool.connections, pool.per_host)
        limits = httpx2.Limits(max_connections=most, max_keepalive_connections=most, keepalive_expiry=pool.keep_alive_s)
        super().__init__(limits=limits, trust_env=False)
        # Compression would make the server wait for enough text to compress.
        self._headers = {"accept-encoding": "identity", **headers}

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request; the body of an answer other than 200 comes with it, as far as it is needed."""
        kept = [header for header in request.headers.multi_items() if _is_kept(header[0])]
        traceparent = tracing.outgoing.get()
        told = [(names.TRACEPARENT, traceparent)] if traceparent else []
        request.headers = httpx2.Headers([*kept, *self._headers.items(), *told])
        response = await super().handle_async_request(request)
        if response.status_code == 200:
            return response
        return httpx2.Response(response.status_code, headers=response.headers, content=await _beginning_of(response))


def _is_kept(name: str) -> bool:
    return name in _KEPT_HEADERS or name.startswith(_KEPT_PREFIX)


async def _beginning_of(response: httpx2.Response) -> bytes:
    """Return the body of a refusal, none of it if it is too large or breaks off: the status says enough."""
    body = bytearray()
    try:
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > MAX_ERROR_BYTES:
                return b""
    except _BROKEN:
        return b""
    finally:
        await response.aclose()
    return bytes(body)


def http_client_of(pool: ProviderPool, headers: Mapping[str, str]) -> httpx2.AsyncClient:
    """Return the connections for a library's client; `headers` are sent whatever the library or its environment says.

    The waits between two reads are bounded by who reads, so that they mean the same for every transport.
    """
    return httpx2.AsyncClient(
        transport=_Transport(pool, headers),
        timeout=httpx2.Timeout(None, connect=pool.connect_timeout_s),
        follow_redirects=False,
        trust_env=False,
    )


def silence(*loggers: str) -> None:
    """Keep libraries from writing what is asked and answered into the log, whatever the environment tells them."""
    for name in (*loggers, "httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.WARNING)
