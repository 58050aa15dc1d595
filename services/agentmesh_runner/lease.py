"""The runner's lease: until when it may act for the tasks that it was given."""

import math
import time
from collections.abc import Callable


class Lease:
    """Lasts until `until`, in monotonic seconds, which host processes on the same machine count alike."""

    def __init__(self, now: Callable[[], float] = time.monotonic, *, until: float = 0.0) -> None:
        self.now = now
        self.until = until

    @classmethod
    def endless(cls) -> "Lease":
        """Make the lease of an attempt that no router gave."""
        return cls(until=math.inf)

    @property
    def over(self) -> bool:
        """Whether somebody else may have the tasks by now."""
        return self.now() > self.until

    def extend(self, until: float) -> None:
        """Take in a renewal; one that was overtaken changes nothing."""
        self.until = max(self.until, until)
