"""Counts per minute, of this process and of the others as far as they have told."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

MINUTE_S = 60.0
_SWEEP_AT = 4096
Name = tuple[str, ...]


@dataclass(slots=True)
class _Window:
    """Counts of a minute and of the one before it; `elsewhere` is what other processes counted."""

    minute: int
    here: int = 0
    elsewhere: int = 0
    before: int = 0
    untold: int = 0  # of `here`, what the others were not told yet


class Windows:
    """Sliding minutes: what was counted in this minute, and that share of the minute before that is not a minute ago.

    That share is taken for evenly spread. `now` tells seconds since 1970, so that processes mean the same minute.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self.shared_by = 1
        """How many processes have to share a limit because they can't hear of each other."""
        self._now = now
        self._windows: dict[Name, _Window] = {}
        self._sweep_at = _SWEEP_AT

    def add(self, name: Name, count: int) -> None:
        """Count; a negative count takes back."""
        window = self._at(name)
        window.here += count
        window.untold += count

    def wait_s(self, name: Name, count: int, limit: int) -> float:
        """Return how long `count` more have to wait to be within the limit; 0 if they need not."""
        limit = max(1, limit // self.shared_by)
        count = min(count, limit)
        window = self._at(name)
        passed_s = self._now() % MINUTE_S
        in_minute = window.here + window.elsewhere
        if in_minute + window.before * (1 - passed_s / MINUTE_S) + count <= limit:
            return 0.0
        if in_minute + count > limit or not window.before:
            # Not in this minute. In the next one it is this minute's share that shrinks.
            too_many = in_minute + count - limit
            return MINUTE_S - passed_s + MINUTE_S * min(1.0, max(0.0, too_many / max(in_minute, 1)))
        share = (limit - in_minute - count) / window.before
        return max(0.001, MINUTE_S * (1 - share) - passed_s)

    def untold(self) -> dict[tuple[Name, int], int]:
        """Return what other processes were not told yet, by name and minute; it counts as told from now on."""
        found = {}
        for name, window in self._windows.items():
            if window.untold:
                found[name, window.minute] = window.untold
                window.untold = 0
        return found

    def not_told(self, counts: Mapping[tuple[Name, int], int]) -> None:
        """Take back that others were told."""
        for (name, minute), count in counts.items():
            window = self._windows.get(name)
            if window is not None and window.minute == minute:
                window.untold += count

    def names(self) -> list[Name]:
        """Return what is counted now."""
        minute = self._minute()
        return [name for name, window in self._windows.items() if window.minute == minute]

    def hear(self, name: Name, minute: int, total: int) -> None:
        """Hear what all processes together have counted in a minute."""
        window = self._windows.get(name)
        if window is None:
            return
        if window.minute == minute:
            window.elsewhere = max(0, total - (window.here - window.untold))
        elif window.minute == minute + 1:
            window.before = max(window.before, total)

    def minute(self) -> int:
        """Return the minute that it is."""
        return self._minute()

    def _at(self, name: Name) -> _Window:
        minute = self._minute()
        window = self._windows.get(name)
        if window is None:
            window = self._windows[name] = _Window(minute)
            if len(self._windows) > self._sweep_at:
                self._windows = {key: one for key, one in self._windows.items() if minute - one.minute < 2}
                self._sweep_at = max(_SWEEP_AT, 2 * len(self._windows))
        elif window.minute != minute:
            before = window.here + window.elsewhere if window.minute == minute - 1 else 0
            window.minute, window.before = minute, before
            window.here = window.elsewhere = window.untold = 0
        return window

    def _minute(self) -> int:
        return math.floor(self._now() / MINUTE_S)
