"""What rate limits rely on, over every kind of bucket; Redis is a real server."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from agentmesh.kit.errors import Unavailable
from agentmesh_router.adapters.memory_buckets import MemoryBuckets
from agentmesh_router.adapters.redis_buckets import RedisBuckets
from agentmesh_router.ports import Buckets
from agentmesh_router.token_bucket import Grant, Rate
from tests.support.redis import RedisServer

SLOW = Rate(0.01, 5)
FAST = Rate(200, 10)


@pytest.fixture(params=["memory", "redis"])
async def buckets(request: pytest.FixtureRequest) -> AsyncIterator[Buckets]:
    if request.param == "memory":
        yield MemoryBuckets(time.monotonic)
        return
    redis: RedisServer = request.getfixturevalue("redis")
    made = RedisBuckets(redis.url(), "router-a")
    await reached(made)
    yield made
    await made.aclose()


async def reached(buckets: Buckets) -> None:
    """Wait until the first connection stands, however slow this machine is at the moment."""
    for _ in range(100):
        try:
            await buckets.routers()
            return
        except Unavailable:
            await asyncio.sleep(0.05)
    raise AssertionError("Redis does not answer")


async def test_a_full_bucket_gives_its_burst_and_then_says_how_long_to_wait(buckets: Buckets) -> None:
    assert await buckets.take("acme", SLOW, 3) == Grant(3, 0.0)
    grant = await buckets.take("acme", SLOW, 3)
    assert grant.tokens == 2
    assert 90 < grant.wait_s <= 100
    assert (await buckets.take("acme", SLOW, 1)).tokens == 0


async def test_each_tenant_has_a_bucket_of_its_own(buckets: Buckets) -> None:
    assert (await buckets.take("acme", SLOW, 5)).tokens == 5
    assert (await buckets.take("umbrella", SLOW, 5)).tokens == 5


async def test_no_more_than_rate_and_burst_are_granted_whoever_asks_in_whatever_order(buckets: Buckets) -> None:
    start, granted = time.monotonic(), 0

    async def ask(wanted: int) -> None:
        nonlocal granted
        while time.monotonic() - start < 0.5:
            grant = await buckets.take("acme", FAST, wanted)
            granted += grant.tokens
            await asyncio.sleep(min(grant.wait_s, 0.01))

    await asyncio.gather(*(ask(wanted) for wanted in (1, 2, 3, 7)))
    elapsed = time.monotonic() - start
    assert FAST.burst < granted <= FAST.burst + FAST.per_s * elapsed + 1


async def test_who_waits_as_long_as_told_gets_a_token(buckets: Buckets) -> None:
    grant = await buckets.take("acme", FAST, 1000)
    await asyncio.sleep(grant.wait_s + 0.001)
    assert (await buckets.take("acme", FAST, 1)).tokens == 1


async def test_a_changed_rate_holds_at_once(buckets: Buckets) -> None:
    await buckets.take("acme", Rate(1000, 1), 1)
    await asyncio.sleep(0.002)
    assert (await buckets.take("acme", Rate(1000, 50), 100)).tokens >= 49


# -- Redis alone -----------------------------------------------------------------------------------------------


async def test_two_routers_share_one_bucket(redis: RedisServer) -> None:
    first, second = RedisBuckets(redis.url(), "router-a"), RedisBuckets(redis.url(), "router-b")
    await reached(first)
    await reached(second)
    assert [(await first.take("acme", SLOW, 3)).tokens, (await second.take("acme", SLOW, 3)).tokens] == [3, 2]
    await first.aclose()
    await second.aclose()


async def test_routers_that_say_that_they_live_are_counted(redis: RedisServer) -> None:
    first, second = RedisBuckets(redis.url(), "router-a"), RedisBuckets(redis.url(), "router-b")
    await reached(first)
    await reached(second)
    assert await first.routers() == 2
    redis.ask("ZADD agentmesh:rate-routers 1 router-long-gone")
    assert await first.routers() == 2
    await first.aclose()
    await second.aclose()


async def test_a_bucket_that_is_full_again_is_forgotten(redis: RedisServer) -> None:
    buckets = RedisBuckets(redis.url(), "router-a")
    await reached(buckets)
    await buckets.take("acme", Rate(1000, 5), 5)
    assert redis.ask("PTTL agentmesh:rate:{acme}") in {f":{ms}" for ms in range(-2, 7)}
    while redis.ask("EXISTS agentmesh:rate:{acme}") != ":0":  # until then it has but 4 of the 5 to give
        await asyncio.sleep(0.001)
    await buckets.take("acme", SLOW, 5)
    assert int(redis.ask("PTTL agentmesh:rate:{acme}")[1:]) > 400_000
    await buckets.aclose()


async def test_a_flushed_redis_knows_neither_script_nor_bucket_and_goes_on(redis: RedisServer) -> None:
    buckets = RedisBuckets(redis.url(), "router-a")
    await reached(buckets)
    await buckets.take("acme", SLOW, 5)
    redis.flush()
    redis.ask("SCRIPT FLUSH")
    assert (await buckets.take("acme", SLOW, 5)).tokens == 5
    await buckets.aclose()


async def test_a_redis_that_is_gone_or_frozen_is_unavailable_and_is_found_again() -> None:
    with RedisServer() as redis:
        buckets = RedisBuckets(redis.url(), "router-a")
        await reached(buckets)
        redis.freeze()
        for _ in range(3):
            with pytest.raises(Unavailable):
                await buckets.take("acme", SLOW, 1)
        redis.thaw()
        await reached(buckets)
        redis.stop()
        with pytest.raises(Unavailable):
            await buckets.take("acme", SLOW, 1)
        redis.start()
        await reached(buckets)
        assert (await buckets.take("acme", SLOW, 1)).tokens == 1
        await buckets.aclose()
