"""Whose submit goes to its commit next when many wait: tenants take turns by weight, each in its own order; pure.

Commits are made in the order in which they are asked for, so whoever submits by the thousand would have everybody else
wait behind him. Here only so many are ahead of a newcomer, however many wait.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

AHEAD: Final = 128
"""Submits that are asked to be committed at a time: two batches, so that the writer is never idle."""


@dataclass(slots=True)
class _Line:
    weight: int
    turn: float = 0.0  # who has had least, for its weight, is next
    waiting: deque[Callable[[], None]] = field(default_factory=deque)


class Turns:
    """Starts what enters, `ahead` at a time; each start is answered by one `leave`."""

    def __init__(self, ahead: int = AHEAD) -> None:
        self._free = ahead
        self._lines: dict[str, _Line] = {}
        self._turn = 0.0
        self._starting = False

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return sum(len(line.waiting) for line in self._lines.values())

    def enter(self, tenant: str, weight: int, start: Callable[[], None]) -> None:
        """Start at once if there is room and nobody waits, else when it is the tenant's turn."""
        if self._free > 0 and not self._lines:
            self._free -= 1
            start()
            return
        line = self._lines.get(tenant)
        if line is None:
            line = self._lines[tenant] = _Line(weight, self._turn + 1 / weight)
        line.waiting.append(start)

    def leave(self) -> None:
        """Make room for the next."""
        self._free += 1
        if self._starting:
            return  # what was started left at once; the loop below goes on
        self._starting = True
        try:
            while self._free > 0 and self._lines:
                self._free -= 1
                self._next()()
        finally:
            self._starting = False

    def _next(self) -> Callable[[], None]:
        tenant, line = min(self._lines.items(), key=lambda item: item[1].turn)
        start = line.waiting.popleft()
        self._turn = line.turn
        line.turn += 1 / line.weight
        if not line.waiting:
            del self._lines[tenant]
        return start
