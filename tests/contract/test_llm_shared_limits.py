"""Llm-proxies keep a limit together by Redis; without it each keeps its share, and no call waits for Redis."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from agentmesh_llm.adapters.redis_windows import RedisWindows
from agentmesh_llm.books.windows import Windows
from tests.support.redis import RedisServer

NAME = ("requests", "acme", "")


@asynccontextmanager
async def proxies(redis: RedisServer, count: int) -> AsyncIterator[list[Windows]]:
    """Run the windows of several proxies, which have heard of each other, all in one minute that stands still."""
    async with AsyncExitStack() as stack:
        made = []
        for _ in range(count):
            windows = Windows(lambda: 6010.0)
            shared = RedisWindows(redis.url(), windows)
            stack.push_async_callback(shared.aclose)
            task = asyncio.create_task(shared.run())
            stack.callback(task.cancel)
            made.append((windows, shared))
        async with asyncio.timeout(10):
            while any(shared.proxies < count for _, shared in made):
                await asyncio.sleep(0.02)
        yield [windows for windows, _ in made]


async def until_full(windows: Windows, limit: int) -> None:
    async with asyncio.timeout(10):
        while windows.wait_s(NAME, 1, limit) == 0:
            await asyncio.sleep(0.02)


async def test_what_one_proxy_let_through_counts_at_the_others(redis: RedisServer) -> None:
    async with proxies(redis, 3) as (first, second, third):
        for windows in (first, second, third):
            windows.wait_s(NAME, 1, 10)
            windows.add(NAME, 3)
        for windows in (first, second, third):
            async with asyncio.timeout(10):
                while windows.wait_s(NAME, 2, 10) == 0:
                    await asyncio.sleep(0.02)
            assert windows.wait_s(NAME, 1, 10) == 0
        second.add(NAME, 1)
        for windows in (first, second, third):
            await until_full(windows, 10)


async def test_without_redis_each_proxy_keeps_its_share_until_redis_is_back(redis: RedisServer) -> None:
    async with proxies(redis, 2) as (first, second):
        redis.freeze()
        try:
            async with asyncio.timeout(10):
                while first.shared_by != 2 or second.shared_by != 2:
                    await asyncio.sleep(0.02)
            for windows in (first, second):
                let_through = 0
                while windows.wait_s(NAME, 1, 10) == 0:
                    windows.add(NAME, 1)
                    let_through += 1
                assert let_through == 5
        finally:
            redis.thaw()
        async with asyncio.timeout(10):
            while first.shared_by != 1 or second.shared_by != 1:
                await asyncio.sleep(0.02)
        # What was counted meanwhile was not forgotten.
        await until_full(first, 10)
        await until_full(second, 10)
