"""Watches Redis, which every service can do without."""

from contextlib import AsyncExitStack

from agentmesh.kit.health import Check
from agentmesh.kit.settings import Cache

_DEADLINE_S = 0.5


def redis_checks(cache: Cache, stack: AsyncExitStack) -> dict[str, Check]:
    """Return the check that asks Redis, where it is used; its connection is closed by the stack."""
    if cache.backend != "redis" or cache.url is None:
        return {}
    from agentmesh.kit.redis_client import close_redis, open_redis

    client = open_redis(cache.url.get_secret_value(), pool_size=1, deadline_s=_DEADLINE_S)
    stack.push_async_callback(close_redis, client)

    async def answers() -> bool:
        return bool(await client.ping())

    return {"redis": answers}
