"""The cache of one process: the least recently used entries go first, by bytes."""

import re
from collections import OrderedDict
from collections.abc import Callable, Sequence

from agentmesh.kit import names, telemetry
from agentmesh_llm.answers.cache_keys import CacheKey

_OVERHEAD_BYTES = 512  # an entry's key, number and places in the tables, roughly
_LARGEST = 8  # an entry may take an eighth of all

_held = telemetry.gauge(names.LLM_CACHE_BYTES, "Held by the cache of this process")


class MemoryCache:
    """Holds at most `max_bytes`. `now` tells monotonic seconds."""

    def __init__(self, max_bytes: int, now: Callable[[], float]) -> None:
        self._max_bytes = max_bytes
        self._now = now
        self._entries: OrderedDict[CacheKey, tuple[bytes, float]] = OrderedDict()
        self.bytes = 0

    def near(self, key: CacheKey) -> bytes | None:
        """See CacheStore."""
        found = self._entries.get(key)
        if found is None:
            return None
        value, until = found
        if until <= self._now():
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return value

    async def far(self, keys: Sequence[CacheKey]) -> list[bytes | None]:
        """See CacheStore: there is nobody else."""
        return [None] * len(keys)

    def put(self, entries: Sequence[tuple[CacheKey, bytes, float]]) -> None:
        """See CacheStore; an entry of more than an eighth of `max_bytes` is not kept."""
        now = self._now()
        for key, value, ttl_s in entries:
            if key in self._entries:
                self._drop(key)
            size = _size(value)
            if ttl_s <= 0 or size > self._max_bytes // _LARGEST:
                continue
            self._entries[key] = (value, now + ttl_s)
            self.bytes += size
        while self.bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))
        _held.set(self.bytes)

    async def purge(self, tenant: str, model_pattern: str) -> int:
        """See CacheStore."""
        fits = re.compile(".*".join(map(re.escape, model_pattern.split("*"))), re.DOTALL).fullmatch
        found = [key for key in self._entries if key.tenant == tenant and fits(key.model)]
        for key in found:
            self._drop(key)
        _held.set(self.bytes)
        return len(found)

    async def aclose(self) -> None:
        """See CacheStore."""
        self._entries.clear()
        self.bytes = 0

    def _drop(self, key: CacheKey) -> None:
        value, _ = self._entries.pop(key)
        self.bytes -= _size(value)


def _size(value: bytes) -> int:
    return len(value) + _OVERHEAD_BYTES
