"""How long whoever calls goes on trying: jittered waits that double, from a budget of time without progress."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from agentmesh.kit.errors import MeshError

FIRST_WAIT_S = 0.05
LONGEST_WAIT_S = 2.0


class Backoff:
    """Waits between tries. The budget begins at the first failure and is full again after `progress`."""

    def __init__(
        self,
        retry_for_s: float,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.retry_for_s = retry_for_s
        self._now = now
        self._sleep = sleep
        self._jitter = jitter
        self._failures = 0
        self._first_failure_s = 0.0

    def progress(self) -> None:
        """Forget the failures: something came through."""
        self._failures = 0

    def next_wait_s(self, error: MeshError) -> float:
        """Count a failure and return the seconds to wait; raise `error` if the budget doesn't last for it.

        The server's own hint on when to come back is kept.
        """
        now = self._now()
        if not self._failures:
            self._first_failure_s = now
        doubled = min(FIRST_WAIT_S * 2.0 ** min(self._failures, 16), LONGEST_WAIT_S)
        self._failures += 1
        wait_s = max(doubled * (0.5 + self._jitter() / 2), error.retry_after_s or 0.0)
        if now + wait_s - self._first_failure_s > self.retry_for_s:
            raise error
        return wait_s

    async def wait(self, error: MeshError) -> None:
        """Wait before the next try, or raise `error` if the budget is used up."""
        await self._sleep(self.next_wait_s(error))
