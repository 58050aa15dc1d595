"""Opens Redis for what is better left out than waited for."""

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

COUNT_ALIVE = """
local now = redis.call('TIME')[1]
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. (now - ARGV[2]))
redis.call('EXPIRE', KEYS[1], ARGV[2])
return redis.call('ZCARD', KEYS[1])
"""
"""A script that notes that ARGV[1] lives and returns how many did so within ARGV[2] seconds, at KEYS[1]."""


def open_redis(url: str, *, pool_size: int, deadline_s: float) -> Redis:
    """Return a client that waits at most `deadline_s` for a free connection, for a new one, or for an answer.

    Nothing is tried again: whoever does without Redis is told by one failure. RESP2 is spoken, because the greeting of
    RESP3 costs a new connection a round trip of its deadline.
    """
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=pool_size,
        timeout=deadline_s,
        socket_timeout=deadline_s,
        socket_connect_timeout=deadline_s,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
    )
    return Redis(connection_pool=pool)


async def close_redis(client: Redis) -> None:
    """Let go of a client and of the connections of its pool."""
    await client.aclose()
    await client.connection_pool.disconnect()
