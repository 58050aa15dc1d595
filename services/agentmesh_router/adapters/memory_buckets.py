"""Buckets of one process: the product's own when there is no Redis, and the local share while Redis is gone."""

from collections.abc import Callable

from agentmesh_router.token_bucket import US, Grant, Rate, draw

_SWEEP_AT = 1024


class MemoryBuckets:
    """Buckets by tenant. `now` tells monotonic seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._full_at_us: dict[str, int] = {}
        self._sweep_at = _SWEEP_AT

    def draw(self, tenant: str, rate: Rate, wanted: int) -> Grant:
        """See Buckets; at once."""
        now_us = int(self._now() * US)
        grant, self._full_at_us[tenant] = draw(self._full_at_us.get(tenant, now_us), now_us, rate, wanted)
        if len(self._full_at_us) > self._sweep_at:
            self._full_at_us = {name: full_at for name, full_at in self._full_at_us.items() if full_at > now_us}
            self._sweep_at = max(_SWEEP_AT, 2 * len(self._full_at_us))
        return grant

    async def take(self, tenant: str, rate: Rate, wanted: int) -> Grant:
        """See Buckets."""
        return self.draw(tenant, rate, wanted)

    async def routers(self) -> int:
        """See Buckets."""
        return 1

    async def aclose(self) -> None:
        """See Buckets."""
