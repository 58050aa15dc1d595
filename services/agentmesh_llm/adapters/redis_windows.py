"""Tells the llm-proxies of each other's counts per minute, by Redis, a few times a second and beside the calls."""

import asyncio
import uuid
from typing import Any

from redis.exceptions import RedisError

from agentmesh.kit import telemetry
from agentmesh.kit.redis_client import COUNT_ALIVE, close_redis, open_redis
from agentmesh_llm.books.windows import Name, Windows

log = telemetry.logger(__name__)

_PREFIX = "agentmesh:llm:count"
_PROXIES = "agentmesh:llm:proxies"
_EVERY_S = 0.2
_DEADLINE_S = 0.2
_AWAY_S = 2.0
_KEEP_S = 180
_ALIVE_S = 15
_FAILED = (RedisError, OSError, TimeoutError)


class RedisWindows:
    """Keeps `windows` in step with those of the other llm-proxies.

    While Redis is away each proxy lets through its own share of a limit: the limit divided by the proxies that were
    last known to live.
    """

    def __init__(self, url: str, windows: Windows, *, pool_size: int = 10) -> None:
        self._windows = windows
        self._name = uuid.uuid4().hex
        self._redis = open_redis(url, pool_size=pool_size, deadline_s=_DEADLINE_S)
        self._beat: Any = self._redis.register_script(COUNT_ALIVE)
        self.proxies = 1
        """How many are known to live, this one included."""

    async def run(self) -> None:
        """Tell and hear, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(_DEADLINE_S):
                    await self._exchange()
                wait_s = _EVERY_S
                self._windows.shared_by = 1
            except _FAILED as error:
                if self._windows.shared_by != self.proxies or self.proxies == 1:
                    log.warning("limits_on_local_share", proxies=self.proxies, error=type(error).__name__)
                self._windows.shared_by = self.proxies
                wait_s = _AWAY_S
            await asyncio.sleep(wait_s)

    async def aclose(self) -> None:
        """Let go of connections."""
        await close_redis(self._redis)

    async def _exchange(self) -> None:
        self.proxies = max(1, int(await self._beat(keys=[_PROXIES], args=[self._name, _ALIVE_S])))
        minute = self._windows.minute()
        told = self._windows.untold()
        wanted = {**dict.fromkeys(((name, minute) for name in self._windows.names()), 0), **told}
        if not wanted:
            return
        try:
            async with self._redis.pipeline(transaction=False) as pipeline:
                for (name, at), count in wanted.items():
                    key = _key(name, at)
                    pipeline.incrby(key, count)
                    pipeline.expire(key, _KEEP_S)
                answers = await pipeline.execute()
        except BaseException:
            self._windows.not_told(told)
            raise
        for (name, at), total in zip(wanted, answers[::2], strict=True):
            self._windows.hear(name, at, int(total))


def _key(name: Name, minute: int) -> str:
    return f"{_PREFIX}:{minute}:{':'.join(part.replace('%', '%25').replace(':', '%3A') for part in name)}"
