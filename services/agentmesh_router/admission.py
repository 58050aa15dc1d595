"""Who may submit a task now, decided before anything is done for it: a refusal has to be cheap.

Pure: no gRPC, no network; time and chance are passed in. Refused are, in this order: submits beyond what gets committed
in time, those of the loudest tenants; submits of a tenant that has too many tasks waiting; and submits beyond a
tenant's rate. Who is below its fair share of the way to the commit is never refused for the load that others make.
"""

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from agentmesh.kit import names, telemetry
from agentmesh.kit.errors import MeshError, ResourceExhausted, to_status
from agentmesh.kit.limit_settings import Limits
from agentmesh_router.congestion import Congestion
from agentmesh_router.rate_limits import RateLimits
from agentmesh_router.turns import Turns

_ACTIVE_S = 1.0
_REPORT_HOLDS_S = 5.0
_FIRST_HINT_S = 0.1
_LONGEST_HINT_S = 5.0
_QUEUE_HINT_S = 1.0
_LAG_EVERY_S = 0.025
_SHARED_S = 0.02
_VARIANTS = 16

_refused = telemetry.counter(
    names.ROUTER_REFUSED_TOTAL,
    "Submits that were refused for load or limits",
    ("reason",),
    (names.OVERLOADED, names.QUEUE_FULL, names.RATE_LIMITED),
)
_overloads = _refused.labels(names.OVERLOADED)
_delay = telemetry.histogram(names.ROUTER_ACCEPT_DELAY, "From a submit to its commit")


@dataclass(slots=True)
class _Tenant:
    name: str
    weight: int
    max_waiting: int
    committing: int = 0  # submits on their way
    undecided: int = 0  # of those, the ones for which no slot was kept: they will wait
    reported: int = 0  # waiting tasks, as storage counted them
    since: int = 0  # and what changed here since then
    last_seen: float = 0.0

    @property
    def waiting(self) -> int:
        return max(0, self.reported + self.since) + self.undecided


class Entry:
    """A submit on its way to its commit: `asked` when the commit is, then one of `committed` and `failed`."""

    __slots__ = ("_admission", "_since", "_tenant", "_waits")

    def __init__(self, admission: "Admission", tenant: _Tenant, since: float) -> None:
        self._admission = admission
        self._tenant = tenant
        self._since = since
        self._waits = False

    def asked(self, *, waits: bool) -> None:
        """Hear that it goes to its commit; `waits` if no slot was kept for it."""
        self._waits = waits
        self._tenant.undecided += waits

    def committed(self, *, waits: bool) -> None:
        """Hear that the task is durable, and whether it waits for a slot."""
        self._tenant.since += waits
        self._admission._committed(self._since, waits=waits)
        self._admission._leave(self._tenant, waited=self._waits)

    def failed(self) -> None:
        """Hear that there is no such task."""
        self._admission._leave(self._tenant, waited=self._waits)


class Admission:
    """Admits or refuses. `now` tells monotonic seconds, `chance` a number from 0 to 1.

    `free_slots` tells how many new tasks of an agent would start at once."""

    def __init__(
        self,
        limits: Limits,
        now: Callable[[], float],
        *,
        queue_limit: int,
        free_slots: Callable[[str], int],
        rates: RateLimits | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.congestion = Congestion(now, limits.target_delay_s)
        self._limits = limits
        self._now = now
        self._queue_limit = queue_limit
        self._rates = rates
        self._free_slots = free_slots
        self._chance = chance
        self._tenants: dict[str, _Tenant] = {}
        self._turns = Turns()
        self._committing = 0
        self._committed_at = float("-inf")
        self._reported_at = now()  # what comes before the first word from storage is counted here
        self._answered = 0.0  # admitted and refused, both fading with the seconds: how much too much comes
        self._turned_away = 0.0
        self._faded_at = now()
        self._written: list[MeshError] = []
        self._write_again_at = now()
        self._weights = 0
        self._weigh_again_at = now()

    # -- deciding -----------------------------------------------------------------------------------------

    def check(self, name: str, agent: str) -> "asyncio.Future[None] | None":
        """Raise ResourceExhausted with a hint of when to come back, or let a tenant's submit through.

        The future is there if the tenant's rate has to be looked up first; it raises the same.
        """
        now = self._now()
        tenant = self._tenant(name, now)
        self._fade(now)
        self._answered += 1
        self._check_congestion(tenant, agent, now)
        self._check_waiting(tenant)
        if self._rates is None:
            return None
        try:
            gate = self._rates.take(name)
        except ResourceExhausted as error:
            _refused.labels(error.reason).inc()
            raise
        if gate is not None:
            gate.add_done_callback(_count_refusal)
        return gate

    def enter(self, name: str, start: Callable[[Entry], None]) -> None:
        """Send a submit to its commit: `start` is called at once, or when it is the tenant's turn."""
        now = self._now()
        tenant = self._tenant(name, now)
        tenant.committing += 1
        self._committing += 1
        self._turns.enter(name, tenant.weight, partial(start, Entry(self, tenant, now)))

    def overloaded(self) -> MeshError:
        """Return the refusal for a submit that comes when there are too many, and count it."""
        self.congestion.refused()
        self._turned_away += 1
        _overloads.inc()
        return self._overload()

    def is_moving(self, within_s: float) -> bool:
        """Say whether something was committed lately: then what waits for its turn waits for load, not for storage."""
        return self._now() - self._committed_at < within_s

    # -- hearing ------------------------------------------------------------------------------------------

    def backlog(self, waiting: Mapping[str, int]) -> None:
        """Take storage's count of waiting tasks by tenant; tenants that it leaves out have none."""
        now = self._now()
        self._reported_at = now
        for name, count in waiting.items():
            self._tenant(name, now if count else 0.0)
        for name, tenant in list(self._tenants.items()):
            tenant.since = 0
            tenant.reported = waiting.get(name, 0)
            if not tenant.reported and not tenant.committing and tenant.last_seen + _ACTIVE_S < now:
                del self._tenants[name]

    def claimed(self, name: str) -> None:
        """Hear that a waiting task got its slot."""
        self.congestion.started()
        tenant = self._tenants.get(name)
        if tenant is not None:
            tenant.since -= 1

    def lagged(self, lag_s: float) -> None:
        """Hear how late the event loop was."""
        self.congestion.lagged(lag_s)

    # -- inside -------------------------------------------------------------------------------------------

    def _check_congestion(self, tenant: _Tenant, agent: str, now: float) -> None:
        congestion = self.congestion
        congestion.turn(self._committing)
        if congestion.has_room(self._committing, lambda: self._free_slots(agent) - self._turns.waiting):
            return
        if tenant.committing < self._share(tenant):
            return
        self._turned_away += 1
        congestion.refused()
        _overloads.inc()
        raise self._said_often(now).with_traceback(None)

    def _check_waiting(self, tenant: _Tenant) -> None:
        if self._knows_backlog() and tenant.waiting >= tenant.max_waiting:
            _refused.labels(names.QUEUE_FULL).inc()
            raise ResourceExhausted(
                "too many tasks of this tenant wait for a slot",
                reason=names.QUEUE_FULL,
                retry_after_s=self._spread(_QUEUE_HINT_S),
                quota=f"tenant:{tenant.name}",
                metadata={"limit": str(tenant.max_waiting)},
            )

    def _share(self, tenant: _Tenant) -> float:
        """Return how many submits a tenant may have on their way while there are too many."""
        now = self._now()
        if now >= self._weigh_again_at:
            oldest = now - _ACTIVE_S
            self._weights = sum(t.weight for t in self._tenants.values() if t.committing or t.last_seen > oldest)
            self._weigh_again_at = now + _SHARED_S
        if self._weights <= tenant.weight:
            return 0.0  # there is nobody to share with
        return max(1.0, min(self.congestion.limit, self._committing) * tenant.weight / self._weights)

    def _knows_backlog(self) -> bool:
        """Whether the count of waiting tasks holds: without storage's word it would only ever grow."""
        return self._now() - self._reported_at < _REPORT_HOLDS_S

    def _overload(self) -> MeshError:
        hint_s = _FIRST_HINT_S * self._answered / max(1.0, self._answered - self._turned_away)
        return ResourceExhausted(
            "the mesh is overloaded", reason=names.OVERLOADED, retry_after_s=self._spread(min(hint_s, _LONGEST_HINT_S))
        )

    def _said_often(self, now: float) -> MeshError:
        """Return one of a few refusals that were written out lately: the next thousand shall cost nearly nothing."""
        if now >= self._write_again_at:
            self._written = [self._overload() for _ in range(_VARIANTS)]
            for error in self._written:
                error.status = to_status(error)
            self._write_again_at = now + _SHARED_S
        return self._written[int(self._chance() * _VARIANTS) % _VARIANTS]

    def _spread(self, hint_s: float) -> float:
        """Whoever was refused together must not come back together."""
        return hint_s * (0.5 + self._chance())

    def _committed(self, since: float, *, waits: bool) -> None:
        self._committed_at = self._now()
        delay_s = self._committed_at - since
        _delay.observe(delay_s)
        self.congestion.committed(delay_s)
        if not waits:
            self.congestion.started()

    def _leave(self, tenant: _Tenant, *, waited: bool) -> None:
        tenant.undecided -= waited
        tenant.committing -= 1
        self._committing -= 1
        self._turns.leave()

    def _fade(self, now: float) -> None:
        if now - self._faded_at >= _ACTIVE_S:
            kept = 0.5 ** ((now - self._faded_at) / _ACTIVE_S)
            self._answered *= kept
            self._turned_away *= kept
            self._faded_at = now

    def _tenant(self, name: str, seen: float) -> _Tenant:
        tenant = self._tenants.get(name)
        if tenant is None:
            limits = self._limits.of(name)
            tenant = _Tenant(name, limits.weight, limits.max_waiting or self._queue_limit)
            self._tenants[name] = tenant
        tenant.last_seen = max(tenant.last_seen, seen)
        return tenant


def _count_refusal(gate: "asyncio.Future[None]") -> None:
    if not gate.cancelled() and isinstance(error := gate.exception(), ResourceExhausted):
        _refused.labels(error.reason).inc()


async def watch_lag(lagged: Callable[[float], None]) -> None:
    """Tell how late the event loop is, forty times a second, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _LAG_EVERY_S
        await asyncio.sleep(_LAG_EVERY_S)
        lagged(loop.time() - due)
