"""Chooses where submits are counted: in this process, or in Redis for all routers together."""

import time
from contextlib import AsyncExitStack

from agentmesh.kit.limit_settings import Limits
from agentmesh.kit.settings import Settings
from agentmesh_router.adapters.memory_buckets import MemoryBuckets
from agentmesh_router.ports import Buckets
from agentmesh_router.rate_limits import RateLimits


def rate_limits(settings: Settings, router_id: str, stack: AsyncExitStack) -> RateLimits:
    """Build the rate limits; none hold if `security.rate_limiting` is off or no tenant has one."""
    limits = settings.limits
    bounded = settings.security.rate_limiting and any(one.submits_per_s for one in (limits.default, *limits.tenants))
    shared: Buckets | None = None
    if bounded and settings.cache.backend == "redis" and settings.cache.url is not None:
        from agentmesh_router.adapters.redis_buckets import RedisBuckets

        shared = RedisBuckets(settings.cache.url.get_secret_value(), router_id, pool_size=settings.cache.pool_size)
        stack.push_async_callback(shared.aclose)
    return RateLimits(
        limits if bounded else Limits(), time.monotonic, local=MemoryBuckets(time.monotonic), shared=shared
    )
