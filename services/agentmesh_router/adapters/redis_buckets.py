"""Buckets that all routers share, in Redis: one atomic script a draw, on Redis' own clock, never waited for long."""

import asyncio
from typing import Any

from redis.exceptions import RedisError

from agentmesh.kit.errors import Unavailable
from agentmesh.kit.redis_client import COUNT_ALIVE, close_redis, open_redis
from agentmesh_router.token_bucket import US, Grant, Rate

_DEADLINE_S = 0.05
_ROUTERS = "agentmesh:rate-routers"
_ALIVE_S = 15

# The arithmetic is that of token_bucket.draw. A bucket that is full again is forgotten.
_DRAW = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, burst, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local start = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now)
local tokens = math.max(0, math.min(wanted, math.floor((now + burst * interval - start) / interval)))
local full_at = start + tokens * interval
if full_at > now then
  redis.call('SET', KEYS[1], string.format('%.0f', full_at), 'PX', math.ceil((full_at - now) / 1000))
end
if tokens == wanted then
  return {tokens, 0}
end
return {tokens, math.max(1, full_at + interval - (now + burst * interval))}
"""


class RedisBuckets:
    """Buckets by tenant at `agentmesh:rate:{tenant}`. Every method raises Unavailable after 50 ms."""

    def __init__(self, url: str, router_id: str, *, pool_size: int = 10) -> None:
        self._router_id = router_id
        self._redis = open_redis(url, pool_size=pool_size, deadline_s=_DEADLINE_S)
        self._draw: Any = self._redis.register_script(_DRAW)
        self._beat: Any = self._redis.register_script(COUNT_ALIVE)

    async def take(self, tenant: str, rate: Rate, wanted: int) -> Grant:
        """See Buckets."""
        key = f"agentmesh:rate:{{{tenant}}}"
        tokens, wait_us = await self._run(self._draw, key, rate.interval_us, rate.burst, wanted)
        return Grant(int(tokens), int(wait_us) / US)

    async def routers(self) -> int:
        """See Buckets; says too that this router lives."""
        return int(await self._run(self._beat, _ROUTERS, self._router_id, _ALIVE_S))

    async def aclose(self) -> None:
        """See Buckets."""
        await close_redis(self._redis)

    async def _run(self, script: Any, key: str, *arguments: object) -> Any:
        try:
            async with asyncio.timeout(_DEADLINE_S):
                return await script(keys=[key], args=arguments)
        except (RedisError, OSError, TimeoutError) as error:
            raise Unavailable("Redis does not answer", reason="LIMITER_UNAVAILABLE") from error
