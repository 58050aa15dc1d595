"""A cache that all llm-proxies share, in Redis, under one of this process. Without Redis there is no shared cache."""

import asyncio
import time
from collections.abc import Callable, Sequence
from urllib.parse import quote

from redis.exceptions import RedisError

from agentmesh.kit import names, telemetry
from agentmesh.kit.batching import Batcher, QueueFull
from agentmesh.kit.redis_client import close_redis, open_redis
from agentmesh_llm.adapters.memory_cache import MemoryCache
from agentmesh_llm.answers.cache_keys import CacheKey

log = telemetry.logger(__name__)

_PREFIX = "agentmesh:llm"
_DEADLINE_S = 0.1
_WRITE_S = 1.0  # no caller waits for it
_WRITERS = 2
_PURGE_S = 30.0
_AWAY_S = 2.0  # after a failure Redis is not asked for so long: every miss would wait for its deadline
_MAX_WAITING = 1024
_MAX_WAITING_BYTES = 16 * 1024 * 1024
_MAX_BATCH = 64
_MAX_BATCH_BYTES = 1024 * 1024
_SCAN = 500
_FAILED = (RedisError, OSError, TimeoutError)

_failures = telemetry.counter(
    names.LLM_CACHE_FAILURES_TOTAL, "What the shared cache could not do", ("what",), ("read", "write", "purge")
)

Entry = tuple[CacheKey, bytes, float]


class RedisCache:
    """Looks into `memory` first. `now` tells monotonic seconds.

    Writes wait in a bounded queue; one that finds it full, or Redis away, is dropped and counted.
    """

    def __init__(
        self, url: str, memory: MemoryCache, *, pool_size: int = 10, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._memory = memory
        self._now = now
        self._away_until = now()
        self._waiting_bytes = 0
        self._redis = open_redis(url, pool_size=pool_size, deadline_s=_DEADLINE_S)
        self._writer = open_redis(url, pool_size=_WRITERS, deadline_s=_WRITE_S)
        self._writes: Batcher[Entry, None] = Batcher(
            self._write,
            max_items=_MAX_BATCH,
            max_bytes=_MAX_BATCH_BYTES,
            size_of=lambda entry: len(entry[1]),
            max_queued=_MAX_WAITING,
            name="cache",
        )

    @property
    def is_shared(self) -> bool:
        """Whether Redis is asked at the moment."""
        return self._now() >= self._away_until

    def near(self, key: CacheKey) -> bytes | None:
        """See CacheStore."""
        return self._memory.near(key)

    async def far(self, keys: Sequence[CacheKey]) -> list[bytes | None]:
        """See CacheStore; waits at most 0.1 s."""
        nothing: list[bytes | None] = [None] * len(keys)
        if not self.is_shared:
            return nothing
        try:
            async with asyncio.timeout(_DEADLINE_S), self._redis.pipeline(transaction=False) as pipeline:
                for key in keys:
                    name = name_of(key)
                    pipeline.get(name)
                    pipeline.pttl(name)
                answers = await pipeline.execute()
        except _FAILED as error:
            self._lost("read", error)
            return nothing
        values = answers[::2]
        self._memory.put(
            [
                (key, value, left_ms / 1000)
                for key, value, left_ms in zip(keys, values, answers[1::2], strict=True)
                if value is not None
            ]
        )
        return values

    def put(self, entries: Sequence[Entry]) -> None:
        """See CacheStore."""
        self._memory.put(entries)
        if not self.is_shared:
            _failures.labels("write").inc(len(entries))
            return
        for number, entry in enumerate(entries):
            if self._waiting_bytes + len(entry[1]) > _MAX_WAITING_BYTES or not self._submit(entry):
                _failures.labels("write").inc(len(entries) - number)
                return

    async def purge(self, tenant: str, model_pattern: str) -> int:
        """See CacheStore; what Redis can't be asked to forget now ends by its time."""
        near = await self._memory.purge(tenant, model_pattern)
        pattern = f"{_PREFIX}:{quoted(tenant)}:{'*'.join(map(quoted, model_pattern.split('*')))}:*"
        far = 0
        try:
            async with asyncio.timeout(_PURGE_S):
                found: list[bytes] = []
                async for name in self._redis.scan_iter(match=pattern, count=_SCAN):
                    found.append(name)
                    if len(found) >= _SCAN:
                        far += await self._redis.unlink(*found)
                        found.clear()
                if found:
                    far += await self._redis.unlink(*found)
        except _FAILED as error:
            self._lost("purge", error)
        return max(near, far)

    async def written(self) -> None:
        """Return when what was put before the call is in Redis, or given up."""
        await self._writes.flush_all()

    async def aclose(self) -> None:
        """See CacheStore."""
        try:
            async with asyncio.timeout(1):
                await self._writes.aclose()
        except TimeoutError:
            log.info("cache_writes_dropped", waiting=self._writes.queued)
        await self._memory.aclose()
        for client in (self._redis, self._writer):
            await close_redis(client)

    def _submit(self, entry: Entry) -> bool:
        try:
            self._writes.submit_nowait(entry)
        except QueueFull:
            return False
        self._waiting_bytes += len(entry[1])
        return True

    async def _write(self, entries: list[Entry]) -> list[None]:
        self._waiting_bytes -= sum(len(value) for _, value, _ in entries)
        try:
            async with asyncio.timeout(_WRITE_S), self._writer.pipeline(transaction=False) as pipeline:
                for key, value, ttl_s in entries:
                    if ttl_s > 0:
                        pipeline.set(name_of(key), value, px=max(1, int(ttl_s * 1000)))
                await pipeline.execute()
        except _FAILED as error:
            self._lost("write", error)
        return [None] * len(entries)

    def _lost(self, what: str, error: Exception) -> None:
        _failures.labels(what).inc()
        if self.is_shared:
            log.warning("cache_without_redis", what=what, kind=type(error).__name__)
        self._away_until = self._now() + _AWAY_S


def name_of(key: CacheKey) -> str:
    """Return where an entry lies in Redis."""
    return f"{_PREFIX}:{quoted(key.tenant)}:{quoted(key.model)}:{key.digest.hex()}"


def quoted(text: str) -> str:
    """Write a name without colons and without what patterns are made of."""
    return quote(text, safe="")
