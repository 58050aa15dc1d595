"""The database's clock, so that leases and deadlines mean the same to every storage process."""

import asyncio

from agentmesh.kit import telemetry
from agentmesh.kit.clock import Clock, SystemClock
from agentmesh.kit.errors import MeshError
from agentmesh_storage.adapters.postgres.pool import Pool

log = telemetry.logger(__name__)

_SAMPLE_S = 5.0
_NOW = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"


class DatabaseClock:
    """Tells the database's time: the last sample, and what has passed since by a clock that never jumps."""

    def __init__(self, pool: Pool, steady: Clock | None = None) -> None:
        self._pool = pool
        self._steady = steady or SystemClock()
        self._offset_ms = 0

    def now_ms(self) -> int:
        """Return milliseconds since 1970."""
        return self._steady.now_ms() + self._offset_ms

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start."""
        return self._steady.monotonic()

    async def sample(self) -> None:
        """Ask the database once; the answer is right to half a round trip."""
        before = self._steady.now_ms()
        (row,) = await self._pool.fetch(_NOW)
        after = self._steady.now_ms()
        self._offset_ms = row[0] - (before + after) // 2

    async def follow(self) -> None:
        """Sample again and again until cancelled; a database that is gone has no say."""
        while True:
            await asyncio.sleep(_SAMPLE_S)
            try:
                await self.sample()
            except MeshError as error:
                log.info("clock_not_sampled", reason=error.reason)
