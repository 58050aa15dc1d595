"""Carries questions to a provider over pooled HTTP connections, and its answers back, whatever language it speaks."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import aiohttp
from aiohttp.http import HttpProcessingError

from agentmesh.kit import tracing
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
from agentmesh_llm.adapters.http_pool import HttpAnswer, HttpPool
from agentmesh_llm.domain import Delta


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
        self._pool = HttpPool(base_url, headers, pool)
        self._total_timeout_s = pool.total_timeout_s
        self._refusal_of = refusal_of
        self._endings = Endings()

    async def stream(self, path: str, body: bytes, reader: AnswerReader) -> AsyncGenerator[Sequence[Delta], None]:
        """Stream an answer; closing the generator closes the socket."""
        feed = AnswerFeed(reader)
        response = await self._post(path, body)
        try:
            while chunk := await self._read(response):
                if deltas := feed.take(chunk):
                    yield deltas
                if feed.error is not None:
                    raise feed.error
                if reader.whole:
                    return
            raise errors.interrupted()
        finally:
            if reader.whole and not response.at_end():
                self._endings.start(partial(self._read, response), partial(_close, response))
            else:
                # Closing, unlike releasing, never waits for the rest of an answer that nobody wants. A connection
                # whose answer was read to its end has gone back into the pool by then.
                response.close()

    async def fetch(self, path: str, body: bytes, max_bytes: int) -> bytes:
        """Return an answer that is no stream, at most `max_bytes` of it; raise Unavailable beyond."""
        try:
            async with asyncio.timeout(self._total_timeout_s):
                response = await self._post(path, body)
                try:
                    return await self._read_whole(response, max_bytes)
                finally:
                    response.close()
        except TimeoutError:
            raise errors.stalled() from None

    async def aclose(self) -> None:
        """Close the pool."""
        await self._endings.aclose()
        await self._pool.aclose()

    async def _post(self, path: str, body: bytes) -> HttpAnswer:
        """Send a request and return its good answer, not yet read; raise the MeshError that a bad one means."""
        try:
            response = await self._pool.post(path, body, tracing.outgoing.get())
        except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError):
            raise errors.unreachable() from None
        except TimeoutError:
            raise errors.stalled() from None
        except (aiohttp.ClientError, HttpProcessingError, OSError):
            raise errors.unreachable() from None
        if response.status == 200:
            return response
        try:
            error = await self._read_error(response) if errors.holds_its_error(response.status) else None
            wait_s = retry_after_s_of(response.headers.get("Retry-After", ""))
            raise errors.of_status(response.status, error, wait_s, self._refusal_of)
        finally:
            response.close()

    async def _read(self, response: HttpAnswer) -> bytes:
        """Return the bytes that came, waiting for some; none at the end."""
        try:
            return await response.read()
        except TimeoutError:
            raise errors.stalled() from None
        except (aiohttp.ClientError, OSError):
            raise errors.interrupted() from None

    async def _read_whole(self, response: HttpAnswer, max_bytes: int) -> bytes:
        body = bytearray()
        while chunk := await self._read(response):
            body += chunk
            if len(body) > max_bytes:
                raise errors.garbage()
        return bytes(body)

    async def _read_error(self, response: HttpAnswer) -> Any:
        try:
            return error_object_of(await self._read_whole(response, MAX_ERROR_BYTES))
        except MeshError:
            return None  # the status says enough


async def _close(response: HttpAnswer) -> None:
    response.close()
