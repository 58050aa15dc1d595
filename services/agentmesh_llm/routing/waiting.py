"""Who goes next where calls have to wait: the interactive ones first, tenants by turns, first come first served."""

import asyncio
from collections import OrderedDict
from typing import Final

from agentmesh.kit import names
from agentmesh.kit.errors import ResourceExhausted
from agentmesh_llm.domain import Priority

_LONGEST_HINT_S: Final = 30.0
_LEAST_HINT_S: Final = 1.0


class Waiter:
    """A call that waits for `place`; `turn` becomes True when it may go, False when it should look elsewhere."""

    __slots__ = ("place", "priority", "tenant", "turn")

    def __init__(self, place: object, tenant: str, priority: Priority) -> None:
        self.place = place
        self.tenant = tenant
        self.priority = priority
        self.turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()


_Tenants = OrderedDict[str, dict[Waiter, None]]


class Line:
    """At most `longest` waiting calls.

    When it is full, who waits with most calls gives one up, its newest: a background call while there is any, and
    never for a tenant that would then have as many. A background call never displaces an interactive one.
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._tenants: dict[Priority, _Tenants] = {priority: OrderedDict() for priority in Priority}
        self._counts = dict.fromkeys(Priority, 0)

    def __len__(self) -> int:
        return sum(self._counts.values())

    def count(self, priority: Priority) -> int:
        """Return how many of a priority wait."""
        return self._counts[priority]

    def before(self, priority: Priority) -> int:
        """Return how many calls one of this priority would wait for, if it were its tenant's turn last."""
        return self._counts[Priority.INTERACTIVE] if priority is Priority.INTERACTIVE else len(self)

    def join(self, waiter: Waiter, retry_after_s: float) -> None:
        """Stand at the end; raise ResourceExhausted where there is no room, to this call or to who makes room."""
        if len(self) >= self._longest:
            last = self._loudest(waiter)
            error = _full(min(max(retry_after_s, _LEAST_HINT_S), _LONGEST_HINT_S))
            if last is None:
                raise error
            self.leave(last)
            last.turn.set_exception(error)
        self._tenants[waiter.priority].setdefault(waiter.tenant, {})[waiter] = None
        self._counts[waiter.priority] += 1

    def next(self) -> Waiter | None:
        """Take out whose turn it is."""
        for priority in (Priority.INTERACTIVE, Priority.BACKGROUND):
            tenants = self._tenants[priority]
            if tenants:
                tenant, waiters = next(iter(tenants.items()))
                tenants.move_to_end(tenant)
                waiter = next(iter(waiters))
                self.leave(waiter)
                return waiter
        return None

    def leave(self, waiter: Waiter) -> None:
        """Take a call out; one that is not there any more is none."""
        tenants = self._tenants[waiter.priority]
        waiters = tenants.get(waiter.tenant)
        if waiters is None or waiter not in waiters:
            return
        del waiters[waiter]
        self._counts[waiter.priority] -= 1
        if not waiters:
            del tenants[waiter.tenant]

    def turn_away(self, place: object) -> None:
        """Let every call that waits for a place look elsewhere."""
        if not len(self):
            return
        every = [waiter for of in self._tenants.values() for waiters in of.values() for waiter in waiters]
        for waiter in every:
            if waiter.place is place:
                self.leave(waiter)
                waiter.turn.set_result(False)

    def _loudest(self, newcomer: Waiter) -> Waiter | None:
        """Return who makes room for a newcomer, if anybody does."""
        for priority in (Priority.BACKGROUND, Priority.INTERACTIVE):
            tenants = self._tenants[priority]
            if not tenants:
                continue
            waiters = max(tenants.values(), key=len)
            if newcomer.priority is priority:
                own = len(tenants.get(newcomer.tenant, ()))
                return next(reversed(waiters)) if own + 1 < len(waiters) else None
            return next(reversed(waiters)) if priority is Priority.BACKGROUND else None
        return None


def _full(retry_after_s: float) -> ResourceExhausted:
    return ResourceExhausted(
        "too many calls wait for the provider", reason=names.QUEUE_FULL, retry_after_s=retry_after_s
    )
