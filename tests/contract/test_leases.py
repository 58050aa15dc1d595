"""A lease is one process's, for as long as it lives; Redis is a real server."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from agentmesh_llm.adapters.memory_cache import MemoryCache
from agentmesh_llm.adapters.redis_cache import RedisCache
from agentmesh_llm.adapters.redis_leases import RedisLeases
from agentmesh_llm.answers.cache_keys import CacheKey
from agentmesh_llm.answers.leasing import Lease
from tests.support.redis import RedisServer

TTL_S = 0.6
KEY = CacheKey("acme", "model", b"k" * 20)


class Replica:
    """A cache and its leases."""

    def __init__(self, redis: RedisServer) -> None:
        self.cache = RedisCache(redis.url(), MemoryCache(1_000_000, time.monotonic))
        self.leases = RedisLeases(redis.url(), self.cache.written, ttl_s=TTL_S)

    async def take(self) -> Lease | None:
        """Try to take the lease, once Redis is reached."""
        async with asyncio.timeout(15):
            while True:
                taken = await self.leases.take(KEY)
                if taken.lease is None or taken.lease.shared:
                    return taken.lease
                await asyncio.sleep(0.1)

    async def aclose(self) -> None:
        """Give everything back."""
        await self.leases.aclose()
        await self.cache.aclose()


@pytest.fixture
async def one(redis: RedisServer) -> AsyncIterator[Replica]:
    replica = Replica(redis)
    yield replica
    await replica.aclose()


@pytest.fixture
async def two(redis: RedisServer) -> AsyncIterator[Replica]:
    replica = Replica(redis)
    await replica.leases.look(CacheKey("acme", "model", b"o" * 20))
    yield replica
    await replica.aclose()


async def test_a_lease_is_held_beyond_its_time_while_its_holder_lives(one: Replica, two: Replica) -> None:
    lease = await one.take()
    assert lease is not None
    until = time.monotonic() + 3 * TTL_S
    while time.monotonic() < until:
        assert await two.take() is None
        await asyncio.sleep(0.05)
    one.leases.release(lease)
    async with asyncio.timeout(5):
        while await two.take() is None:
            await asyncio.sleep(0.01)


async def test_an_answer_is_there_before_its_lease_is_gone(one: Replica, two: Replica) -> None:
    lease = await one.take()
    assert lease is not None
    assert await two.take() is None
    one.cache.put([(KEY, b"answer", 60)])
    one.leases.release(lease)
    async with asyncio.timeout(5):
        while (await two.leases.look(KEY))[0]:
            await asyncio.sleep(0)
    for _ in range(2):  # what is answered is given to nobody any more
        assert (await two.leases.take(KEY)).entry == b"answer"
    async with asyncio.timeout(5):
        while await two.leases.look(KEY) != (False, b"answer"):
            await asyncio.sleep(0.01)


async def test_nobody_gives_back_what_is_somebody_elses_by_now(one: Replica, two: Replica, redis: RedisServer) -> None:
    lease = await one.take()
    assert lease is not None
    redis.ask(f"DEL {lease.name}")  # as if it had been over
    other = await two.take()
    assert other is not None
    one.leases.release(lease)
    await one.leases.aclose()
    assert redis.ask(f"EXISTS {lease.name}") == ":1"
    two.leases.release(other)
    async with asyncio.timeout(5):
        while redis.ask(f"EXISTS {lease.name}") == ":1":
            await asyncio.sleep(0.01)


async def test_who_closes_gives_everything_back(one: Replica, redis: RedisServer) -> None:
    lease = await one.take()
    assert lease is not None
    await one.leases.aclose()
    assert redis.ask(f"EXISTS {lease.name}") == ":0"
