"""Writes down what was used, off the path of the calls, and knows what was spent in this day and month."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache

from agentmesh.kit import names, telemetry
from agentmesh.kit.errors import MeshError
from agentmesh_llm.books.records import Account, Books, By, Entry, Totals, UsageQuery

log = telemetry.logger(__name__)

_DAY_S = 86_400
_MAX_PENDING = 10_000
_BATCH = 500
_REFRESH_S = 5.0
_PRUNE_S = 3600.0
_MAX_BACKOFF_S = 30.0
_LAST_WRITE_S = 5.0
_MAX_ACCOUNTS = 100_000  # tenants and keys whose spending is looked at

_pending_gauge = telemetry.gauge(names.LLM_USAGE_PENDING, "Sums of usage that are not written down yet")
_failures = telemetry.counter(names.LLM_USAGE_FAILURES_TOTAL, "Times that usage could not be written down")

Holder = tuple[str, str]
"""A tenant with an empty text, or a tenant and its virtual key."""


class Ledger:
    """Adds usage up in memory and writes the sums every `flush_s`.

    While the database is away they grow on; beyond 10,000 of them tasks are no longer told apart, beyond twice as many
    neither are keys and models, so that money is never forgotten and memory stays bounded by the tenants.
    """

    def __init__(
        self,
        books: Books,
        *,
        flush_s: float,
        keep_days: int,
        keep_tasks_days: int,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.books = books
        self._flush_s = flush_s
        self._keep_days = keep_days
        self._keep_tasks_days = keep_tasks_days
        self._now = now
        self._pending: dict[tuple[str, Account], Totals] = {}
        self._writing: dict[tuple[str, Account], Totals] = {}
        self._flushing = asyncio.Lock()
        self._written: dict[Holder, tuple[str, int, int]] = {}  # day, its cost, its month's cost
        self._unwritten: dict[Holder, int] = {}
        self._looked_at: dict[Holder, None] = {}

    @property
    def today(self) -> str:
        """Return the day, UTC."""
        return _day(int(self._now()) // _DAY_S)

    @property
    def pending(self) -> int:
        """Return how many sums are not written down yet."""
        return len(self._pending) + len(self._writing)

    async def answers(self) -> bool:
        """Say whether the books can be read; raise Unavailable if not."""
        await self.books.key_by_id("")
        return True

    def add(self, account: Account, totals: Totals) -> None:
        """Note what was used now; returns at once."""
        day = self.today
        if len(self._pending) >= _MAX_PENDING:
            account = account._replace(task_id="")
            if len(self._pending) >= 2 * _MAX_PENDING:
                account = account._replace(key_id="", model="")
        held = self._pending.get((day, account))
        if held is None:
            held = self._pending[day, account] = Totals()
            _pending_gauge.set(len(self._pending))
        held.add(totals)
        if totals.cost_nano_usd:
            for holder in _holders(account):
                self._unwritten[holder] = self._unwritten.get(holder, 0) + totals.cost_nano_usd

    def add_request(self, account: Account) -> None:
        """Note a request that cost nothing."""
        held = self._pending.get((self.today, account))
        if held is None:
            self.add(account, Totals(requests=1))
        else:
            held.requests += 1

    def spent(self, holder: Holder) -> tuple[int, int]:
        """Return what a holder has spent today and this month, as far as is known, in billionths of a US dollar."""
        self._looked_at[holder] = None
        if len(self._looked_at) > _MAX_ACCOUNTS:
            self._forget(next(iter(self._looked_at)))
        today, unwritten = self.today, self._unwritten.get(holder, 0)
        day, in_day, in_month = self._written.get(holder, (today, 0, 0))
        if day != today:
            in_day, in_month = 0, in_month if day[:7] == today[:7] else 0
        return in_day + unwritten, in_month + unwritten

    async def learn(self, holder: Holder) -> None:
        """Make sure that what the books say of a holder is known; raise Unavailable if they can't be read."""
        if holder not in self._written:
            await self._read(holder)

    async def run(self) -> None:
        """Write, read again what others wrote, and prune, until cancelled."""
        wait_s, refreshed, pruned = self._flush_s, self._now(), 0.0
        while True:
            await asyncio.sleep(wait_s)
            try:
                await self.flush()
                now = self._now()
                if now - refreshed >= _REFRESH_S:
                    for holder in list(self._looked_at):
                        await self._read(holder)
                    refreshed = now
                if now - pruned >= _PRUNE_S:
                    kept, tasks = now - _DAY_S * self._keep_days, now - _DAY_S * self._keep_tasks_days
                    await self.books.prune(day_of(kept), day_of(tasks))
                    pruned = now
                wait_s = self._flush_s
            except MeshError as error:
                _failures.inc()
                wait_s = min(wait_s * 2, _MAX_BACKOFF_S)
                log.warning("usage_not_written", reason=error.reason, sums=len(self._pending), retry_in_s=wait_s)

    async def flush(self) -> None:
        """Write what is pending now; raise Unavailable, keeping it, if that can't be done.

        What comes in the meantime is left for the next time: a busy proxy writes no more often than a quiet one.
        """
        async with self._flushing:
            due = list(self._pending)
            for start in range(0, len(due), _BATCH):
                await self._write({key: self._pending.pop(key) for key in due[start : start + _BATCH]})
        _pending_gauge.set(len(self._pending))

    async def aclose(self) -> None:
        """Write the last."""
        try:
            async with asyncio.timeout(_LAST_WRITE_S):
                await self.flush()
        except (MeshError, TimeoutError):
            _failures.inc()
            log.error("usage_lost", sums=len(self._pending))
        await self.books.aclose()

    async def _write(self, due: dict[tuple[str, Account], Totals]) -> None:
        self._writing = due
        try:
            await self.books.add_usage([Entry(day, account, sums) for (day, account), sums in due.items()])
        except BaseException:
            # Cut off in the middle it may be written all the same: rather twice than never.
            for key, totals in due.items():
                self._pending.setdefault(key, Totals()).add(totals)
            raise
        else:
            self._settle()
        finally:
            self._writing = {}

    def _settle(self) -> None:
        """Take what was written from what is unwritten to what the books are known to say."""
        today = self.today
        for (at, account), totals in self._writing.items():
            cost = totals.cost_nano_usd
            for holder in _holders(account) if cost else ():
                left = self._unwritten.pop(holder, 0) - cost
                if left > 0:
                    self._unwritten[holder] = left
                day, in_day, in_month = self._written.get(holder, ("", 0, 0))
                if day == at == today:
                    self._written[holder] = (day, in_day + cost, in_month + cost)

    def _forget(self, holder: Holder) -> None:
        del self._looked_at[holder]
        self._written.pop(holder, None)

    async def _read(self, holder: Holder) -> None:
        today = self.today
        first = f"{today[:7]}-01"
        query = UsageQuery((By.DAY,), first, today, tenant=holder[0], key_id=holder[1])
        costs = {one.of[0]: one.totals.cost_nano_usd for one in await self.books.usage(query)}
        self._written[holder] = (today, costs.get(today, 0), sum(costs.values()))


def day_of(now_s: float) -> str:
    """Return the day, UTC, of seconds since 1970."""
    return _day(int(now_s) // _DAY_S)


@lru_cache(8)
def _day(number: int) -> str:
    return datetime.fromtimestamp(number * _DAY_S, UTC).date().isoformat()


def _holders(account: Account) -> tuple[Holder, ...]:
    everything = (account.tenant, "")
    return (everything, (account.tenant, account.key_id)) if account.key_id else (everything,)
