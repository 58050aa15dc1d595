"""News between storage processes by Redis pub/sub."""

from collections.abc import AsyncGenerator, Sequence

import redis.asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from agentmesh.kit.errors import Unavailable

_CHANNEL = "agentmesh:news"
_TIMEOUT_S = 2.0
_QUIET_S = 5.0


class RedisWire:
    """Publishes and listens on one channel. Redis keeps nothing: what nobody hears is gone."""

    def __init__(self, url: str) -> None:
        self._publisher = _client(url, Retry(NoBackoff(), 1))  # the pooled connection may have died of old age
        # Without retries: a subscription that is made again silently would hide that news were lost.
        self._subscriber = _client(url, Retry(NoBackoff(), 0))

    async def publish(self, texts: Sequence[str]) -> None:
        """See Wire."""
        try:
            async with self._publisher.pipeline(transaction=False) as pipeline:
                for text in texts:
                    pipeline.publish(_CHANNEL, text)
                await pipeline.execute()
        except (RedisError, OSError, TimeoutError) as error:
            raise _gone() from error

    async def listen(self) -> AsyncGenerator[str, None]:
        """See Wire."""
        try:
            async with self._subscriber.pubsub(ignore_subscribe_messages=True) as subscription:
                await subscription.subscribe(_CHANNEL)
                yield ""
                while True:
                    message = await subscription.get_message(timeout=_QUIET_S)
                    if message is None:
                        await subscription.ping()
                    elif message["type"] == "message":
                        yield message["data"].decode()
        except (RedisError, OSError, TimeoutError) as error:
            raise _gone() from error

    async def aclose(self) -> None:
        """Close the connections."""
        await self._publisher.aclose()
        await self._subscriber.aclose()


def _client(url: str, retry: Retry) -> "aioredis.Redis":
    return aioredis.Redis.from_url(
        url,
        socket_timeout=_TIMEOUT_S,
        socket_connect_timeout=_TIMEOUT_S,
        health_check_interval=5,
        retry=retry,
    )


def _gone() -> Unavailable:
    return Unavailable("Redis can't be reached", reason="REDIS_UNAVAILABLE")
