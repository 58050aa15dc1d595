"""The runner's lease: until when it may act for the tasks that it was given."""

import math
from collections.abc import Callable

from agentmesh.kit.clock import elapsed_ns
from agentmesh.kit.errors import StaleAttempt


def lease_time() -> float:
    """Return seconds by the clock of leases: time asleep counts, and every process of a machine reads the same."""
    return elapsed_ns() / 1e9


class Lease:
    """Lasts until `until`, by the clock `now`. Whoever finds it over tells so with `on_over`."""

    def __init__(self, now: Callable[[], float] = lease_time, *, until: float = 0.0) -> None:
        self.now = now
        self.until = until
        self.on_over: Callable[[], None] = lambda: None

    @classmethod
    def endless(cls) -> "Lease":
        """Make the lease of an attempt that no router gave."""
        return cls(until=math.inf)

    @property
    def over(self) -> bool:
        """Whether somebody else may have the tasks by now."""
        return self.now() > self.until

    def check(self) -> None:
        """Raise StaleAttempt if it is over."""
        if self.over:
            self.on_over()
            raise StaleAttempt("the runner's lease is over", reason="LEASE_LOST")

    def extend(self, until: float) -> None:
        """Take in a renewal; one that was overtaken changes nothing."""
        self.until = max(self.until, until)
