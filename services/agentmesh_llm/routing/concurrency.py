"""How many calls a provider's credential takes at a time, found by trying, and the wait for those beyond."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from agentmesh.kit import names, telemetry
from agentmesh.kit.errors import Overloaded, ResourceExhausted
from agentmesh_llm.domain import Priority
from agentmesh_llm.routing.waiting import Line, Waiter

_SHRINKS_TO: Final = 0.5
_SMOOTHING: Final = 0.2
_FIRST_GUESS_S: Final = 0.5  # what a call is taken to last before one has ended

_limits = telemetry.gauge(names.LLM_IN_FLIGHT_LIMIT, "Calls that a provider takes at a time", ("provider",))
_in_flight = telemetry.gauge(names.LLM_IN_FLIGHT, "Calls that a provider works on", ("provider",))
_waiting = telemetry.gauge(names.LLM_WAITING, "Calls that wait for a provider", ("provider", "priority"))
_waits = telemetry.histogram(names.LLM_WAIT, "How long calls waited for a provider", ("provider", "outcome"))


@dataclass(frozen=True, slots=True)
class LimitBounds:
    """Between what a limit moves, it begins with the most; and how many calls wait beyond it."""

    most: int = 10_000
    least: int = 1
    waiting: int = 1000


class CallLimit:
    """The calls in flight with one credential. `now` tells monotonic seconds.

    Every good call adds its share of one to the limit, so that it grows by one with each round of calls. A call
    that tells of too much halves it, once for all the calls that were under way at that time.
    """

    def __init__(
        self, provider: str = "", bounds: LimitBounds = LimitBounds(), now: Callable[[], float] = time.monotonic
    ) -> None:
        self.in_flight = 0
        self._limit = float(bounds.most)
        self._bounds = bounds
        self._now = now
        self._line = Line(bounds.waiting)
        self._shrunk_at = now() - 1
        self._call_s = _FIRST_GUESS_S
        self._provider = provider
        # Read when somebody looks: a call must not pay for it.
        _in_flight.labels(provider).set_function(lambda: self.in_flight)
        _limits.labels(provider).set_function(lambda: self.most)
        for priority in Priority:
            _waiting.labels(provider, priority.value).set_function(partial(self._line.count, priority))

    @property
    def most(self) -> int:
        """How many calls may be in flight now."""
        return int(self._limit)

    @property
    def is_full(self) -> bool:
        """Whether one more call would have to wait."""
        return self.in_flight >= self.most

    def wait_s(self, priority: Priority) -> float:
        """Estimate how long one more call would wait for its turn."""
        if not self.is_full:
            return 0.0
        return (self._line.before(priority) + 1) * self._call_s / self.most

    def take(self) -> bool:
        """Take the room for a call, if there is any; `give_back` it."""
        if self.in_flight >= self.most:
            return False
        self.in_flight += 1
        return True

    async def wait(self, place: object, tenant: str, priority: Priority) -> bool:
        """Wait for room and take it; False if `turn_away` came first. Raise ResourceExhausted if too many wait."""
        waiter = Waiter(place, tenant, priority)
        began = self._now()
        outcome = "refused"
        try:
            self._line.join(waiter, self.wait_s(priority))
            went = await waiter.turn
            outcome = "went" if went else "turned_away"
            return went
        except asyncio.CancelledError:
            outcome = "left"
            if waiter.turn.done() and not waiter.turn.cancelled() and waiter.turn.exception() is None:
                if waiter.turn.result():
                    self._free()
            else:
                self._line.leave(waiter)
            raise
        finally:
            _waits.labels(self._provider, outcome).observe(self._now() - began)

    def give_back(self, began: float, error: BaseException | None) -> None:
        """Hear how a call ended that began at `began`, and let the next one go."""
        now = self._now()
        self._call_s += _SMOOTHING * (now - began - self._call_s)
        if isinstance(error, ResourceExhausted | Overloaded):
            if began > self._shrunk_at:
                self._limit = max(self._limit * _SHRINKS_TO, float(self._bounds.least))
                self._shrunk_at = now
        elif error is None and self._limit < self._bounds.most:
            self._limit = min(self._limit + 1 / self._limit, float(self._bounds.most))
        self._free()

    def put_back(self) -> None:
        """Give back room that no call was made in."""
        self._free()

    def turn_away(self, place: object) -> None:
        """Let every call that waits for a place look elsewhere."""
        self._line.turn_away(place)

    def _free(self) -> None:
        self.in_flight -= 1
        while len(self._line) and self.in_flight < self.most:
            waiter = self._line.next()
            if waiter is not None and not waiter.turn.done():
                self.in_flight += 1
                waiter.turn.set_result(True)
