"""Leases that all llm-proxies share, in Redis: who has one asks the provider, the others look for the answer."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace

from redis.exceptions import RedisError

from agentmesh.kit import names, telemetry
from agentmesh.kit.redis_client import close_redis, open_redis
from agentmesh_llm.adapters.redis_cache import name_of, quoted
from agentmesh_llm.answers.cache_keys import CacheKey
from agentmesh_llm.answers.leasing import Lease, Taken

log = telemetry.logger(__name__)

# Not among the answers: a purge of those must not end a lease.
_PREFIX = "agentmesh:llm-lease"
_TAKE_S = 0.25
_LOOK_S = 1.0  # who waits anyway waits that long for a slow Redis, too
_AWAY_S = 2.0  # after a failure Redis is not asked for so long
_CLOSE_S = 1.0
_RENEWALS = 3  # in a lease's time
_FAILED = (RedisError, OSError, TimeoutError)

_RENEW = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0"
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"

_failures = telemetry.counter(
    names.LLM_LEASE_FAILURES_TOTAL,
    "What Redis could not do about leases",
    ("what",),
    ("take", "look", "release", "renew"),
)


class RedisLeases:
    """See Leases. A lease lives for `ttl_s` and is renewed while it is held; `written` waits for the cache's writes.

    Without Redis everybody gets a lease.
    """

    def __init__(
        self,
        url: str,
        written: Callable[[], Awaitable[None]],
        *,
        ttl_s: float,
        pool_size: int = 10,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._written = written
        self._ttl_ms = max(1, round(ttl_s * 1000))
        self._now = now
        self._away_until = now()
        self._redis = open_redis(url, pool_size=pool_size, deadline_s=_LOOK_S)
        self._held: set[Lease] = set()
        self._renewing: asyncio.Task[None] | None = None
        self._releasing: set[asyncio.Task[None]] = set()

    @property
    def is_shared(self) -> bool:
        """Whether Redis is asked at the moment."""
        return self._now() >= self._away_until

    async def take(self, key: CacheKey) -> Taken:
        """See Leases; waits at most 0.25 s."""
        lease = Lease(_name(key), uuid.uuid4().hex)
        if not self.is_shared:
            return Taken(_unshared(lease), None)
        try:
            async with asyncio.timeout(_TAKE_S), self._redis.pipeline(transaction=False) as pipeline:
                pipeline.set(lease.name, lease.token, nx=True, px=self._ttl_ms)
                pipeline.get(name_of(key))
                got, entry = await pipeline.execute()
        except _FAILED as error:
            self._lost("take", error)
            return Taken(_unshared(lease), None)
        except asyncio.CancelledError:
            self._let_go(lease)  # it may have been given
            raise
        if not got:
            return Taken(None, entry)
        if entry is not None:
            # The answer came between the look into the cache and this one.
            self._let_go(lease)
            return Taken(None, entry)
        self._held.add(lease)
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renew())
        return Taken(lease, None)

    async def look(self, key: CacheKey) -> tuple[bool, bytes | None]:
        """See Leases; waits at most 1 s."""
        if not self.is_shared:
            return False, None
        try:
            async with asyncio.timeout(_LOOK_S), self._redis.pipeline(transaction=False) as pipeline:
                # In this order: an answer is there before its lease is gone.
                pipeline.exists(_name(key))
                pipeline.get(name_of(key))
                held, entry = await pipeline.execute()
        except _FAILED as error:
            self._lost("look", error)
            return False, None
        return bool(held), entry

    def release(self, lease: Lease) -> None:
        """See Leases."""
        if lease in self._held:
            self._held.discard(lease)
            self._let_go(lease)

    async def aclose(self) -> None:
        """See Leases."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])
        for lease in list(self._held):
            self.release(lease)
        if self._releasing:
            await asyncio.wait(self._releasing, timeout=_CLOSE_S)
        for task in self._releasing:
            task.cancel()
        await close_redis(self._redis)

    def _let_go(self, lease: Lease) -> None:
        task = asyncio.create_task(self._release(lease))
        self._releasing.add(task)
        task.add_done_callback(self._releasing.discard)

    async def _release(self, lease: Lease) -> None:
        """Give a lease back once the answer is where others look for it; one that can't be given back ends by time."""
        try:
            async with asyncio.timeout(self._ttl_ms / 1000):
                await self._written()
            async with asyncio.timeout(_LOOK_S):
                await self._redis.eval(_RELEASE, 1, lease.name, lease.token)
        except _FAILED as error:
            self._lost("release", error)

    async def _renew(self) -> None:
        while self._held:
            await asyncio.sleep(self._ttl_ms / 1000 / _RENEWALS)
            if not self.is_shared:
                continue
            try:
                async with asyncio.timeout(_LOOK_S), self._redis.pipeline(transaction=False) as pipeline:
                    for lease in self._held:
                        pipeline.eval(_RENEW, 1, lease.name, lease.token, str(self._ttl_ms))
                    await pipeline.execute()
            except _FAILED as error:
                self._lost("renew", error)

    def _lost(self, what: str, error: Exception) -> None:
        _failures.labels(what).inc()
        if self.is_shared:
            log.warning("leases_without_redis", what=what, kind=type(error).__name__)
        self._away_until = self._now() + _AWAY_S


def _name(key: CacheKey) -> str:
    return f"{_PREFIX}:{quoted(key.tenant)}:{quoted(key.model)}:{key.digest.hex()}"


def _unshared(lease: Lease) -> Lease:
    return replace(lease, shared=False)
