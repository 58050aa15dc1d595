"""Whether submits come faster than they are committed, and how many may then be on their way; pure.

A queue that drains is a burst and does no harm. One that stands, longer than the target for several windows in a
row, is overload. From then on only so many submits may be on their way as the best rate of the last seconds works
off within a quarter of the target (Little's law: what is beyond that only waits), or within the time of the quickest
commits and a quarter more if that is longer, up to half the target; until none had to be refused for a while.
The rate is measured under that very limit: if work gets faster the limit grows with it, without probing.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

WINDOW_S: Final = 0.1
LEAST: Final = 16
"""Submits that may always be on their way: a slow disk makes the mesh slow, it locks nobody out."""
MOST: Final = 4096
"""Submits that may be on their way while the mesh copes."""
_STANDS_FOR: Final = 3
_HOPELESS: Final = 4  # targets' worth of work on the way: no need to see it stand for longer
_SHORT: Final = 0.25  # of the target; at half of it the tail was twice as long, and no more got done
_LONG: Final = 0.5
_ABOVE_QUICKEST: Final = 1.25
_CALM_S: Final = 2.0
_BEST_OF: Final = 50
_SMOOTHING: Final = 0.3


class Congestion:
    """Watches delays in windows of 0.1 s. `now` tells monotonic seconds."""

    def __init__(self, now: Callable[[], float], target_s: float) -> None:
        self._now = now
        self._target_s = target_s
        self._delays: list[float] = []
        self._lags: list[float] = []
        self._starts = 0
        self._window_start = now()
        self._standing = 0  # windows in a row in which the queue stood
        self._last_refusal_s = 0.0
        self._rates: deque[float] = deque([0.0], maxlen=_BEST_OF)
        self._quickest: deque[float] = deque([0.0], maxlen=_BEST_OF)
        self._start_rate = 0.0
        self.overloaded = False
        self.limit: float = MOST
        """How many submits may be on their way."""

    def has_room(self, committing: int, free_slots: Callable[[], int]) -> bool:
        """Say whether one more may be on its way.

        A task that would wait for a slot is taken for too much as well if tasks start by the hundred, for then the mesh
        is what is slow. If few do, slots are what is short, and waiting for one is no overload.
        """
        if committing >= self.limit:
            return False
        return not self.overloaded or self._start_rate * self._target_s < LEAST or free_slots() > 0

    def turn(self, committing: int) -> None:
        """End the window if its time is over."""
        now = self._now()
        elapsed = now - self._window_start
        if elapsed < WINDOW_S:
            return
        if self._delays or self._starts:
            self._rates.append(_smoothed(self._rates[-1], len(self._delays) / elapsed))
            self._quickest.append(min(self._delays, default=self._target_s))
            self._start_rate = _smoothed(self._start_rate, self._starts / elapsed)
        if self._delays:  # a window without commits says nothing about the queue
            stands = max(_median(self._delays), _median(self._lags)) > self._target_s
            self._standing = self._standing + 1 if stands else 0
            hopeless = stands and committing > _HOPELESS * self._target_s * len(self._delays) / elapsed
            if not self.overloaded and (self._standing >= _STANDS_FOR or hopeless):
                self.overloaded = True
                self._last_refusal_s = now
        elif now - self._last_refusal_s > _CALM_S:
            self._standing = 0
        if self.overloaded and not self._standing and now - self._last_refusal_s > _CALM_S:
            self.overloaded = False
        self.limit = max(LEAST, max(self._rates) * self._within_s()) if self.overloaded else MOST
        self._delays.clear()
        self._lags.clear()
        self._starts = 0
        self._window_start = now

    def committed(self, delay_s: float) -> None:
        """Hear how long a submit took to its commit."""
        self._delays.append(delay_s)

    def started(self) -> None:
        """Hear that a task got a slot."""
        self._starts += 1

    def lagged(self, lag_s: float) -> None:
        """Hear how late the event loop was: what waits before it can be measured waits as long."""
        self._lags.append(lag_s)

    def refused(self) -> None:
        """Hear that a submit was refused for overload."""
        self._last_refusal_s = self._now()

    def _within_s(self) -> float:
        """Return how long submits may be on their way: a disk that takes long needs more of them to do as much."""
        quickest = _ABOVE_QUICKEST * min(self._quickest)
        return min(max(quickest, _SHORT * self._target_s), _LONG * self._target_s)


def _smoothed(before: float, rate: float) -> float:
    """Smooth, because after a stall the work of many windows ends in one."""
    return before + _SMOOTHING * (rate - before)


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2] if values else 0.0
