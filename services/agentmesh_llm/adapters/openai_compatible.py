"""Asks any server that speaks OpenAI's HTTP: the real one, Ollama, LM Studio, vLLM and many more."""

import array
import asyncio
import base64
import email.utils
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson

from agentmesh.kit.errors import InvalidRequest, MeshError, NotFound, ResourceExhausted, Unavailable, WrongState
from agentmesh.kit.settings import Provider as ProviderSettings
from agentmesh_llm.adapters import openai_wire
from agentmesh_llm.adapters.openai_wire import ChunkReader
from agentmesh_llm.adapters.sse import SseParser
from agentmesh_llm.domain import Delta, EmbedQuestion, Question, Vectors

_MAX_EVENT_BYTES = 1024 * 1024
_MAX_ERROR_BYTES = 64 * 1024
_MAX_VECTORS_BYTES = 64 * 1024 * 1024
_MAX_RETRY_AFTER_S = 3600.0
_END_WAIT_S = 1.0
# Older servers know max_tokens only, OpenAI's newer models refuse it.
_OPENAI_HOST = "api.openai.com"


class OpenAiCompatibleProvider:
    """One server and one credential, with a connection pool of its own.

    The address and every figure come from the configuration; proxies and credentials of the environment are not
    looked at, and redirects are not followed, because they would carry the key elsewhere.
    """

    def __init__(self, settings: ProviderSettings) -> None:
        assert settings.base_url is not None  # the settings demand it of this kind
        self._base_url = settings.base_url
        self._api_key = settings.api_key
        self._pool = settings.pool
        is_openai = urlsplit(settings.base_url).hostname == _OPENAI_HOST
        self._max_tokens_key = "max_completion_tokens" if is_openai else "max_tokens"
        self._session: aiohttp.ClientSession | None = None

    async def stream(self, question: Question) -> AsyncGenerator[Sequence[Delta], None]:
        """Stream a chat completion; closing the generator closes the socket."""
        body = openai_wire.question_body(question, max_tokens_key=self._max_tokens_key)
        parser = SseParser(_MAX_EVENT_BYTES)
        reader = ChunkReader()
        response = await self._post("/chat/completions", body)
        try:
            while chunk := await self._read(response):
                events = parser.feed(chunk)
                deltas: list[Delta] = []
                for data in events:
                    if data == openai_wire.DONE:
                        deltas += reader.finish()
                        yield deltas
                        await _read_end(response)
                        return
                    try:
                        deltas += reader.read(data)
                    except MeshError:
                        if deltas:
                            yield deltas
                        raise
                if deltas:
                    yield deltas
            raise openai_wire.interrupted()
        finally:
            # Closing, unlike releasing, never waits for the rest of an answer that nobody wants. A connection
            # whose answer was read to its end has gone back into the pool by then.
            response.close()

    async def embed(self, question: EmbedQuestion) -> Vectors:
        """Return a vector for each text."""
        try:
            async with asyncio.timeout(self._pool.total_timeout_s):
                response = await self._post("/embeddings", openai_wire.embed_body(question))
                try:
                    body = await self._read_whole(response, _MAX_VECTORS_BYTES)
                finally:
                    response.close()
        except TimeoutError:
            raise _stalled() from None
        # Megabytes of numbers would hold up every stream of the process.
        return await asyncio.to_thread(_read_vectors, body, len(question.inputs))

    async def aclose(self) -> None:
        """Close the pool."""
        if self._session is not None:
            await self._session.close()

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            pool = self._pool
            # Compression would make the server wait for enough text to compress.
            headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
            if self._api_key is not None:
                headers["Authorization"] = f"Bearer {self._api_key.get_secret_value()}"
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=pool.connections,
                    limit_per_host=pool.per_host,
                    ttl_dns_cache=int(pool.dns_ttl_s),
                    keepalive_timeout=pool.keep_alive_s,
                ),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=pool.connect_timeout_s),
                headers=headers,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return self._session

    async def _post(self, path: str, body: bytes) -> aiohttp.ClientResponse:
        """Send a request and return its good answer, not yet read; raise the MeshError that a bad one means."""
        try:
            async with asyncio.timeout(self._pool.idle_timeout_s):
                response = await self._open_session().post(self._base_url + path, data=body, allow_redirects=False)
        except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError):
            raise _unreachable() from None
        except TimeoutError:
            raise _stalled() from None
        except (aiohttp.ClientError, OSError):
            raise _unreachable() from None
        if response.status == 200:
            return response
        try:
            raise await self._refusal(response)
        finally:
            response.close()

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """Return the bytes that came, waiting for some; none at the end."""
        try:
            async with asyncio.timeout(self._pool.idle_timeout_s):
                return await response.content.readany()
        except TimeoutError:
            raise _stalled() from None
        except (aiohttp.ClientError, OSError):
            raise openai_wire.interrupted() from None

    async def _read_whole(self, response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
        body = bytearray()
        while chunk := await self._read(response):
            body += chunk
            if len(body) > max_bytes:
                raise openai_wire.garbage()
        return bytes(body)

    async def _refusal(self, response: aiohttp.ClientResponse) -> MeshError:
        status = response.status
        if status in (401, 403):
            return WrongState("the provider refuses the configured credential", reason="PROVIDER_CREDENTIAL")
        if status == 404:
            return NotFound("the provider doesn't have this model", reason="MODEL_NOT_FOUND")
        if status == 429:
            return ResourceExhausted(
                "the provider's rate limit is reached",
                reason="PROVIDER_RATE_LIMITED",
                retry_after_s=_retry_after_s(response, 1.0),
            )
        if 400 <= status < 500 and status not in (408, 409, 425):
            error = await self._read_error(response)
            if status in (400, 413, 422) and openai_wire.is_context_length(error):
                return openai_wire.context_length()
            return InvalidRequest("the provider refuses the request", reason="PROVIDER_REFUSED")
        return Unavailable("the provider failed", reason="PROVIDER_FAILED", retry_after_s=_retry_after_s(response, 1.0))

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


def _retry_after_s(response: aiohttp.ClientResponse, default: float) -> float:
    value = response.headers.get("Retry-After", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return default
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER_S) if seconds == seconds else default


def _read_vectors(body: bytes, expected: int) -> Vectors:
    try:
        answer = orjson.loads(body)
        values: list[list[float]] = [[] for _ in range(expected)]
        for position, entry in enumerate(answer["data"]):
            values[entry.get("index", position)] = _vector(entry["embedding"])
        model = str(answer.get("model") or "")[:256]
        usage = openai_wire.read_usage(answer.get("usage") or {})
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise openai_wire.garbage() from None
    if not all(values):
        raise openai_wire.garbage()
    return Vectors(values, usage, model)


def _vector(value: Any) -> list[float]:
    if isinstance(value, str):
        numbers = array.array("f", base64.b64decode(value, validate=True))
        if sys.byteorder == "big":
            numbers.byteswap()
        return numbers.tolist()
    return [float(number) for number in value]


def _unreachable() -> MeshError:
    return Unavailable("the provider can't be reached", reason="PROVIDER_UNREACHABLE", retry_after_s=1)


def _stalled() -> MeshError:
    return Unavailable("the provider fell silent", reason="PROVIDER_STALLED", retry_after_s=1)
