"""What the cache relies on, over memory alone and over Redis; Redis is a real server that stops and freezes."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from agentmesh_llm.adapters.memory_cache import MemoryCache
from agentmesh_llm.adapters.redis_cache import RedisCache
from agentmesh_llm.answers.cache_keys import CacheKey
from agentmesh_llm.ports import CacheStore
from tests.support.redis import RedisServer

MIB = 1024 * 1024
A = CacheKey("acme", "gpt-small", b"a" * 20)
B = CacheKey("acme", "gpt-large", b"b" * 20)
OTHER = CacheKey("other", "gpt-small", b"a" * 20)


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[CacheStore]:
    memory = MemoryCache(MIB, time.monotonic)
    if request.param == "redis":
        redis: RedisServer = request.getfixturevalue("redis")
        shared = RedisCache(redis.url(), memory)
        await reached(shared)
        yield shared
        await shared.aclose()
    else:
        yield memory


async def reached(store: RedisCache) -> None:
    """Wait until the connection stands, however slow this machine is at the moment."""
    async with asyncio.timeout(15):
        while not (store.is_shared and await store.far([A]) and store.is_shared):
            await asyncio.sleep(0.1)


async def found(store: CacheStore, key: CacheKey) -> bytes | None:
    """Look near, then far."""
    return store.near(key) or (await store.far([key]))[0]


async def test_what_was_put_is_found_until_its_time_is_over(store: CacheStore) -> None:
    store.put([(A, b"one", 60), (B, b"two", 0.2)])
    assert (await found(store, A), await found(store, B), await found(store, OTHER)) == (b"one", b"two", None)
    store.put([(A, b"three", 60)])
    assert await found(store, A) == b"three"
    await asyncio.sleep(0.3)
    assert await found(store, B) is None


async def test_a_purge_takes_one_tenants_entries_of_the_models_that_fit(store: CacheStore) -> None:
    strange = CacheKey("acme", "a*b?[c]:d", b"s" * 20)
    store.put([(A, b"1", 60), (B, b"2", 60), (OTHER, b"3", 60), (strange, b"4", 60)])
    await asyncio.sleep(0.1)
    assert await store.purge("acme", "a*b?[c]:d") == 1
    assert await store.purge("acme", "gpt-s*") == 1
    assert [await found(store, key) for key in (A, B, OTHER, strange)] == [None, b"2", b"3", None]
    assert await store.purge("acme", "*") == 1
    assert [await found(store, key) for key in (B, OTHER)] == [None, b"3"]


async def test_memory_forgets_what_was_used_longest_ago_and_takes_nothing_too_large() -> None:
    memory = MemoryCache(10_000, time.monotonic)
    keys = [CacheKey("acme", "m", bytes([n]) * 20) for n in range(12)]
    memory.put([(keys[0], b"x" * 700, 60), (keys[1], b"x" * 700, 60)])
    for key in keys[2:]:
        memory.near(keys[0])
        memory.put([(key, b"x" * 700, 60)])
    assert memory.bytes <= 10_000
    assert memory.near(keys[0]) is not None
    assert memory.near(keys[1]) is None
    memory.put([(keys[1], b"x" * 2000, 60)])
    assert memory.near(keys[1]) is None


async def test_two_processes_share_what_one_has_kept(redis: RedisServer) -> None:
    one, two = (RedisCache(redis.url(), MemoryCache(MIB, time.monotonic)) for _ in range(2))
    await reached(one)
    await reached(two)
    one.put([(A, b"answer", 60)])
    async with asyncio.timeout(5):
        while (await two.far([A]))[0] is None:
            await asyncio.sleep(0.02)
    assert two.near(A) == b"answer"
    for store in (one, two):
        await store.aclose()


@pytest.mark.parametrize("fault", ["stop", "freeze"])
async def test_without_redis_there_is_memory_and_never_an_error(redis: RedisServer, fault: str) -> None:
    store = RedisCache(redis.url(), MemoryCache(MIB, time.monotonic))
    await reached(store)
    getattr(redis, fault)()
    try:
        for number in range(3000):
            store.put([(CacheKey("acme", "m", number.to_bytes(20, "big")), b"x" * 100, 60)])
        assert (await store.far([A, B])) == [None, None]
        store.put([(A, b"answer", 60)])
        assert store.near(A) == b"answer"
        assert not store.is_shared
        assert await store.purge("acme", "gpt-*") == 1
    finally:
        redis.thaw() if fault == "freeze" else redis.start()
    await reached(store)
    await store.aclose()
