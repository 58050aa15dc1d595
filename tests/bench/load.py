"""Keeps so many calls in flight for so long, the same way for the mesh as for the anchors."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class Loaded(Generic[T]):
    """What a load came to: one latency in seconds and one answer for each completed call."""

    latencies: list[float]
    answers: list[T]
    elapsed_s: float

    @property
    def per_second(self) -> float:
        """Completed calls per second."""
        return len(self.latencies) / self.elapsed_s


async def keep_in_flight(call: Callable[[], Awaitable[T]], in_flight: int, seconds: float) -> Loaded[T]:
    """Repeat a call `in_flight` times at once for `seconds`, and wait for the last; one that raises ends it all."""
    latencies: list[float] = []
    answers: list[T] = []
    start = time.perf_counter()
    end = start + seconds

    async def worker() -> None:
        began = time.perf_counter()
        while began < end:
            answer = await call()
            done = time.perf_counter()
            latencies.append(done - began)
            answers.append(answer)
            began = done

    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(worker())
    return Loaded(latencies, answers, time.perf_counter() - start)


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value that `percent` of them don't exceed, by nearest rank; `values` isn't empty."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
