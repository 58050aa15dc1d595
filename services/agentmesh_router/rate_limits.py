"""How many submits a second each tenant gets over all routers, with tokens drawn ahead so that most cost no call.

Tokens come from the shared buckets a twentieth of a second's worth at a time. While the shared buckets can't be
reached, this router grants its own share: the rate divided by the routers that were last known to live. That may
let a tenant have less than its rate, or a burst more than once; it never fails a submit.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from agentmesh.kit import names, telemetry
from agentmesh.kit.errors import MeshError, ResourceExhausted, Unavailable
from agentmesh.kit.limit_settings import Limits, TenantLimits
from agentmesh_router.adapters.memory_buckets import MemoryBuckets
from agentmesh_router.background import fail
from agentmesh_router.ports import Buckets
from agentmesh_router.token_bucket import Grant, Rate

log = telemetry.logger(__name__)

_AHEAD_S = 0.05
_KEEP_S = 0.25
_BEAT_S = 5.0
_FIRST_BACKOFF_S = 0.5
_LONGEST_BACKOFF_S = 10.0
_MAX_WAITERS = 4096

_fallbacks = telemetry.counter(names.ROUTER_LIMITER_FALLBACKS_TOTAL, "Draws granted from the local share")


@dataclass(slots=True)
class _Purse:
    """What this router holds of one tenant's tokens, and who waits for some."""

    rate: Rate
    tokens: int = 0
    good_until: float = 0.0
    empty_until: float = 0.0  # the shared bucket said that there is nothing before
    waiters: deque["asyncio.Future[None]"] = field(default_factory=deque)
    drawing: bool = False


class RateLimits:
    """Takes tokens for submits. `shared` is None where one router is alone with its `local` buckets."""

    def __init__(
        self,
        limits: Limits,
        now: Callable[[], float],
        *,
        local: MemoryBuckets,
        shared: Buckets | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._limits = limits
        self._now = now
        self._local = local
        self._shared = shared
        self._chance = chance
        self._purses: dict[str, _Purse | None] = {}
        self._draws: set[asyncio.Task[None]] = set()
        self._routers = 1
        self._failures = 0
        self._try_again_at = 0.0

    def take(self, tenant: str) -> "asyncio.Future[None] | None":
        """Take a token: at once (None), or once the shared bucket has answered (a future).

        Raises ResourceExhausted, as the future does, with the time until there is a token again.
        """
        if tenant not in self._purses:
            rate = rate_of(self._limits.of(tenant))
            self._purses[tenant] = None if rate is None else _Purse(rate)
        purse = self._purses[tenant]
        if purse is None:
            return None
        now = self._now()
        if not self._is_shared(now):
            self._take_locally(tenant, purse)
            return None
        if purse.tokens and purse.good_until < now:
            purse.tokens = 0
        if purse.tokens and not purse.waiters:
            purse.tokens -= 1
            return None
        if purse.empty_until > now or len(purse.waiters) >= _MAX_WAITERS:
            raise self._refusal(tenant, purse, purse.empty_until - now)
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        purse.waiters.append(waiter)
        if not purse.drawing:
            self._start_drawing(tenant, purse)
        return waiter

    async def keep_in_touch(self) -> None:
        """Tell the shared buckets that this router lives, and learn how many do, until cancelled."""
        while self._shared is not None:
            if self._is_shared(self._now()):
                try:
                    self._routers = max(1, await self._shared.routers())
                    self._failures = 0
                except Unavailable:
                    self._lost()
            await asyncio.sleep(_BEAT_S)

    # -- drawing ------------------------------------------------------------------------------------------

    def _start_drawing(self, tenant: str, purse: _Purse) -> None:
        purse.drawing = True
        task = asyncio.get_running_loop().create_task(self._draw(tenant, purse))
        self._draws.add(task)
        task.add_done_callback(self._draws.discard)

    async def _draw(self, tenant: str, purse: _Purse) -> None:
        assert self._shared is not None
        try:
            while purse.waiters:
                wanted = len(purse.waiters) + int(purse.rate.per_s * _AHEAD_S)
                try:
                    grant = await self._shared.take(tenant, purse.rate, wanted)
                except Unavailable:
                    self._lost()
                    self._serve_locally(tenant, purse)
                    return
                self._failures = 0
                self._hand_out(tenant, purse, grant)
        finally:
            purse.drawing = False
            for waiter in purse.waiters:  # only if a bug or the end of the loop broke the drawing
                waiter.cancel()

    def _hand_out(self, tenant: str, purse: _Purse, grant: Grant) -> None:
        now = self._now()
        purse.tokens, purse.good_until = grant.tokens, now + _KEEP_S
        if grant.wait_s:
            purse.empty_until = now + grant.wait_s
        while purse.waiters:
            if not purse.tokens and not grant.wait_s:
                return  # more came while the answer was on its way
            waiter = purse.waiters.popleft()
            if waiter.done():
                continue
            if purse.tokens:
                purse.tokens -= 1
                waiter.set_result(None)
            else:
                fail(waiter, self._refusal(tenant, purse, grant.wait_s))

    # -- without the shared buckets -----------------------------------------------------------------------

    def _is_shared(self, now: float) -> bool:
        return self._shared is not None and now >= self._try_again_at

    def _lost(self) -> None:
        if not self._is_shared(self._now()):
            return  # another tenant's draw has told
        if not self._failures:
            log.warning("limiter_on_local_share", routers=self._routers)
        backoff_s = min(_FIRST_BACKOFF_S * 2.0**self._failures, _LONGEST_BACKOFF_S) * (0.5 + self._chance() / 2)
        self._failures = min(self._failures + 1, 16)
        self._try_again_at = self._now() + backoff_s

    def _serve_locally(self, tenant: str, purse: _Purse) -> None:
        while purse.waiters:
            waiter = purse.waiters.popleft()
            if waiter.done():
                continue
            try:
                self._take_locally(tenant, purse)
            except ResourceExhausted as error:
                fail(waiter, error)
            else:
                waiter.set_result(None)

    def _take_locally(self, tenant: str, purse: _Purse) -> None:
        rate = purse.rate
        if self._shared is not None:
            _fallbacks.inc()
            rate = Rate(rate.per_s / self._routers, max(1, rate.burst // self._routers))
        grant = self._local.draw(tenant, rate, 1)
        if not grant.tokens:
            raise self._refusal(tenant, purse, grant.wait_s)

    def _refusal(self, tenant: str, purse: _Purse, wait_s: float) -> MeshError:
        # The next token is one; those who were refused together must not all come for it.
        spread_s = self._chance() / purse.rate.per_s
        return ResourceExhausted(
            "this tenant submits faster than it may",
            reason=names.RATE_LIMITED,
            retry_after_s=min(max(wait_s, 0.001) + spread_s, 3600.0),
            quota=f"tenant:{tenant}",
            metadata={"submits_per_s": f"{purse.rate.per_s:g}"},
        )


def rate_of(limits: TenantLimits) -> Rate | None:
    """Return a tenant's rate, None if it has no bound."""
    if not limits.submits_per_s:
        return None
    return Rate(limits.submits_per_s, limits.burst or max(1, int(limits.submits_per_s)))
