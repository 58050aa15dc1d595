"""Keeps apart what must not share a batch: a batcher for each key that has work."""

import asyncio
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from agentmesh.kit.batching import Batcher, BatcherClosed, QueueFull

T = TypeVar("T")
R = TypeVar("R")
K = TypeVar("K", bound=Hashable)


class KeyedBatcher(Generic[K, T, R]):
    """A Batcher for each key, made when the key comes and dropped when it is idle; at most `max_keys`."""

    def __init__(self, make: Callable[[K], Batcher[T, R]], *, max_keys: int) -> None:
        """`make` builds the batcher of a key; it must be new at each call."""
        if max_keys < 1:
            raise ValueError("max_keys is at least 1")
        self._make = make
        self._max_keys = max_keys
        self._batchers: dict[K, Batcher[T, R]] = {}
        self._closed = False

    @property
    def keys(self) -> int:
        """Number of keys that have work."""
        return len(self._batchers)

    @property
    def queued(self) -> int:
        """Number of items that wait to be sent, of all keys."""
        return sum(batcher.queued for batcher in self._batchers.values())

    async def submit(self, key: K, item: T) -> R:
        """Return the item's result as Batcher.submit does; raise QueueFull if `max_keys` others are busy."""
        batcher = self._of(key)
        result = batcher._enqueue(item)
        self._batchers[key] = batcher
        return await result

    def submit_nowait(self, key: K, item: T) -> asyncio.Future[R]:
        """Queue the item as Batcher.submit_nowait does; the bound on keys raises QueueFull too."""
        batcher = self._of(key)
        result = batcher.submit_nowait(item)
        self._batchers[key] = batcher
        return result

    async def flush_all(self) -> None:
        """Return when every item submitted before the call, of any key, is handled or taken back."""
        await asyncio.gather(*[batcher.flush_all() for batcher in self._batchers.values()])

    async def aclose(self) -> None:
        """Refuse new items, handle those submitted before, and stop. May be called again."""
        self._closed = True
        await asyncio.gather(*[batcher.aclose() for batcher in self._batchers.values()])

    def _of(self, key: K) -> Batcher[T, R]:
        if self._closed:
            raise BatcherClosed("the keyed batcher is closed")
        if (batcher := self._batchers.get(key)) is None:
            if len(self._batchers) >= self._max_keys:
                raise QueueFull("too many keys are busy", limit=self._max_keys)
            batcher = self._make(key)
            batcher._on_idle = lambda: self._drop(key)
        return batcher

    def _drop(self, key: K) -> None:
        self._batchers.pop(key, None)
