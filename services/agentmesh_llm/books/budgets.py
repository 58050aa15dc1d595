"""Lets a call go to a provider only within its tenant's and its key's limits: sets aside first, settles at the end."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from agentmesh.kit import names, telemetry
from agentmesh.kit.errors import MeshError, ResourceExhausted
from agentmesh.kit.usages import NANO
from agentmesh_llm.books.ledger import Holder, Ledger
from agentmesh_llm.books.records import Limits
from agentmesh_llm.books.windows import MINUTE_S, Windows

_LONGEST_HINT_S = 3600.0

_limited = telemetry.counter(
    names.LLM_LIMITED_TOTAL,
    "Calls that were refused by a limit",
    ("limit",),
    ("requests", "tokens", "budget_day", "budget_month"),
)


@dataclass(frozen=True, slots=True)
class Bound:
    """A holder and what it may have."""

    holder: Holder
    limits: Limits


@dataclass(slots=True)
class Reservation:
    """What is set aside for a call that runs: its cost, in billionths of a US dollar, and its tokens."""

    bounds: tuple[Bound, ...] = ()
    cost: int = 0
    tokens: int = 0
    open: bool = True


NOTHING = Reservation(open=False)


class Budgets:
    """Counts requests, tokens and money of those who have a limit; of nobody else anything is kept."""

    def __init__(self, ledger: Ledger, windows: Windows, now: Callable[[], float] = time.time) -> None:
        self._ledger = ledger
        self._windows = windows
        self._now = now
        self._set_aside: dict[Holder, int] = {}

    def admit(self, bounds: Iterable[Bound]) -> None:
        """Count a request; raise ResourceExhausted if one of the limits on requests is reached."""
        limited = [bound for bound in bounds if bound.limits.requests_per_minute]
        for bound in limited:
            wait_s = self._windows.wait_s(_requests(bound.holder), 1, bound.limits.requests_per_minute)
            if wait_s:
                raise _refusal("requests", bound, wait_s, names.RATE_LIMITED, bound.limits.requests_per_minute)
        for bound in limited:
            self._windows.add(_requests(bound.holder), 1)

    def reserve(self, bounds: tuple[Bound, ...], tokens: int, cost: int) -> Reservation:
        """Set aside what a call may use at most; raise ResourceExhausted, with nothing set aside, if it is too much."""
        for bound in bounds:
            self._check(bound, tokens, cost)
        for bound in bounds:
            if bound.limits.tokens_per_minute:
                self._windows.add(_tokens(bound.holder), tokens)
            self._set_aside[bound.holder] = self._set_aside.get(bound.holder, 0) + cost
        return Reservation(bounds, cost, tokens)

    def settle(self, reservation: Reservation, tokens: int) -> None:
        """Put back what was set aside; `tokens` were used instead. Settling twice is allowed."""
        if not reservation.open:
            return
        reservation.open = False
        for bound in reservation.bounds:
            if bound.limits.tokens_per_minute:
                self._windows.add(_tokens(bound.holder), tokens - reservation.tokens)
            left = self._set_aside.pop(bound.holder, 0) - reservation.cost
            if left > 0:
                self._set_aside[bound.holder] = left

    def _check(self, bound: Bound, tokens: int, cost: int) -> None:
        limits, holder = bound.limits, bound.holder
        if limits.tokens_per_minute:
            # More than a whole minute's worth may go when nothing else has.
            wait_s = self._windows.wait_s(
                _tokens(holder), min(tokens, limits.tokens_per_minute), limits.tokens_per_minute
            )
            if wait_s:
                raise _refusal("tokens", bound, wait_s, names.RATE_LIMITED, limits.tokens_per_minute)
        if not (limits.budget_day or limits.budget_month):
            return
        in_day, in_month = self._ledger.spent(holder)
        running = self._set_aside.get(holder, 0) + cost
        now = datetime.fromtimestamp(self._now(), UTC)
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        if limits.budget_month and in_month + running > limits.budget_month:
            first = (midnight.replace(day=1) + timedelta(days=32)).replace(day=1) if midnight.day != 1 else midnight
            raise _spent("month", bound, (first - now).total_seconds(), limits.budget_month)
        if limits.budget_day and in_day + running > limits.budget_day:
            raise _spent("day", bound, (midnight - now).total_seconds(), limits.budget_day)


def _requests(holder: Holder) -> tuple[str, ...]:
    return ("requests", *holder)


def _tokens(holder: Holder) -> tuple[str, ...]:
    return ("tokens", *holder)


def _of(holder: Holder) -> str:
    return "key" if holder[1] else "tenant"


def _refusal(what: str, bound: Bound, wait_s: float, reason: str, limit: int) -> MeshError:
    _limited.labels(what).inc()
    return ResourceExhausted(
        f"this {_of(bound.holder)} has had its {what} of this minute",
        reason=reason,
        retry_after_s=min(wait_s, MINUTE_S),
        quota=f"{_of(bound.holder)}:{bound.holder[1] or bound.holder[0]}",
        metadata={f"{what}_per_minute": str(limit)},
    )


def _spent(period: str, bound: Bound, wait_s: float, limit: int) -> MeshError:
    _limited.labels(f"budget_{period}").inc()
    return ResourceExhausted(
        f"this {_of(bound.holder)}'s budget of the {period} does not cover the call",
        reason=names.BUDGET_EXHAUSTED,
        retry_after_s=min(wait_s, _LONGEST_HINT_S),
        quota=f"{_of(bound.holder)}:{bound.holder[1] or bound.holder[0]}",
        metadata={f"budget_{period}_usd": f"{limit / NANO:g}"},
    )
