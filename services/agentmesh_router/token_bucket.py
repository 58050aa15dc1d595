"""The arithmetic of a token bucket kept as one number, pure; the Lua script of the Redis adapter does the same.

The number is the time at which the bucket would be full again (as in the generic cell rate algorithm). In any stretch
of t seconds no more than rate * t + burst tokens are granted, whoever asks in whatever order.
"""

from dataclasses import dataclass
from typing import Final

US: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Rate:
    """Tokens per second (more than 0), and how many may come at once (at least 1)."""

    per_s: float
    burst: int

    @property
    def interval_us(self) -> int:
        """How long a token takes to grow, rounded up so that the rate is never exceeded."""
        return max(1, -int(-US // self.per_s))


@dataclass(frozen=True, slots=True)
class Grant:
    """What a bucket gave: tokens, and if they are fewer than asked for, the seconds until the next one."""

    tokens: int
    wait_s: float


def draw(full_at_us: int, now_us: int, rate: Rate, wanted: int) -> tuple[Grant, int]:
    """Take up to `wanted` tokens; return them with the bucket's new number."""
    interval_us = rate.interval_us
    start_us = max(full_at_us, now_us)
    room_us = now_us + rate.burst * interval_us - start_us
    tokens = max(0, min(wanted, room_us // interval_us))
    full_at_us = start_us + tokens * interval_us
    if tokens == wanted:
        return Grant(tokens, 0.0), full_at_us
    short_us = full_at_us + interval_us - (now_us + rate.burst * interval_us)
    return Grant(tokens, max(1, short_us) / US), full_at_us
