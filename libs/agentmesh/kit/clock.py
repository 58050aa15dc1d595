"""Time as a thing that is passed in, so that rules can be tested without waiting."""

import time
from typing import Protocol

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp


class Clock(Protocol):
    """Tells wall time and a time that never goes back."""

    def now_ms(self) -> int:
        """Return milliseconds since 1970."""

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start."""


class SystemClock:
    """The clock of the machine."""

    def now_ms(self) -> int:
        """Return milliseconds since 1970."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start."""
        return time.monotonic()


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
