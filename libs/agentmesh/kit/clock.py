"""Time as a thing that is passed in, so that rules can be tested without waiting."""

import time
from typing import Protocol

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

LAST_TIME_MS = 253_402_300_799_999
"""The end of the year 9999, the last time that a Timestamp can hold."""
_BOOTTIME: int | None = getattr(time, "CLOCK_BOOTTIME", None)


class Clock(Protocol):
    """Tells wall time and a time that never goes back."""

    def now_ms(self) -> int:
        """Return milliseconds since 1970."""

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start."""


class SystemClock:
    """The machine's clock as it was at the start of the process, and what has passed since.

    Somebody who sets the clock by an hour must not end leases, tokens or tasks. Time asleep counts where the system
    tells it (Linux).
    """

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - elapsed_ns()

    def now_ms(self) -> int:
        """Return milliseconds since 1970."""
        return (self._offset_ns + elapsed_ns()) // 1_000_000

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start."""
        return time.monotonic()


def elapsed_ns() -> int:
    """Return nanoseconds from a start that every process of a machine shares; time asleep counts (on Linux)."""
    if _BOOTTIME is not None:
        return time.clock_gettime_ns(_BOOTTIME)
    return time.monotonic_ns()


def timestamp(ms: int) -> Timestamp:
    """Turn milliseconds since 1970 into a Timestamp."""
    return Timestamp(seconds=ms // 1000, nanos=ms % 1000 * 1_000_000)


def to_ms(value: Timestamp | Duration) -> int:
    """Turn a Timestamp or Duration into milliseconds."""
    return value.seconds * 1000 + value.nanos // 1_000_000


def duration(seconds: float) -> Duration:
    """Turn seconds into a Duration."""
    whole = int(seconds)
    return Duration(seconds=whole, nanos=int((seconds - whole) * 1e9))
