"""Whether submits come faster than they are committed, and how many may then be on their way; pure.

A queue that drains is a burst and does no harm. One that stands, longer than the target for several windows in a
row, is overload. From then on only so many submits may be on their way as the best rate of the last seconds works
off within half the target (Little's law; half, so that the queue drains), until none had to be refused for a while.
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
        self._start_rates: deque[float] = deque([0.0], maxlen=_BEST_OF)
        self.overloaded = False

    @property
    def limit(self) -> float:
        """How many submits may be on their way."""
        return max(LEAST, max(self._rates) * self._target_s / 2) if self.overloaded else MOST

    def on_the_way(self, committing: int, waiting: Callable[[], int]) -> float:
        """Return how many submits count as on their way.

        What waits for a slot counts as far as it would be started within the target: if tasks start by the thousand,
        they wait because the mesh is slow. If few do, slots are what is short, and waiting for one is no overload.
        """
        if not self.overloaded:
            return committing
        return committing + min(waiting(), max(self._start_rates) * self._target_s)

    def turn(self, committing: int, waiting: Callable[[], int]) -> None:
        """End the window if its time is over."""
        now = self._now()
        elapsed = now - self._window_start
        if elapsed < WINDOW_S:
            return
        if self._delays or self._starts:
            _add(self._rates, len(self._delays) / elapsed)
            _add(self._start_rates, self._starts / elapsed)
        if self._delays:  # a window without commits says nothing about the queue
            stands = max(_median(self._delays), _median(self._lags)) > self._target_s
            self._standing = self._standing + 1 if stands else 0
            hopeless = stands and committing > _HOPELESS * self._target_s * len(self._delays) / elapsed
            if not self.overloaded and (self._standing >= _STANDS_FOR or hopeless):
                self.overloaded = True
                self._last_refusal_s = now
        elif now - self._last_refusal_s > _CALM_S:
            self._standing = 0
        if (
            self.overloaded
            and not self._standing
            and now - self._last_refusal_s > _CALM_S
            and self.on_the_way(committing, waiting) < self.limit
        ):
            self.overloaded = False
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


def _add(rates: deque[float], rate: float) -> None:
    """Smooth, because after a stall the work of many windows ends in one."""
    rates.append(rates[-1] + _SMOOTHING * (rate - rates[-1]))


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2] if values else 0.0
