"""Knows on whose account a request goes: checks it against keys and limits, and books what it used."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from agentmesh.kit.errors import PermissionDenied
from agentmesh.kit.spend_settings import Spending, SpendLimits
from agentmesh.kit.usages import NANO
from agentmesh_llm.books.budgets import NOTHING, Bound, Budgets, Reservation
from agentmesh_llm.books.keys import Keys
from agentmesh_llm.books.ledger import Ledger
from agentmesh_llm.books.records import Account, Limits, Totals, UsageQuery, UsageSum, VirtualKey
from agentmesh_llm.domain import Usage
from agentmesh_llm.routing.deployments import Deployment
from agentmesh_llm.watching.calls import Caller, CallRecord

_NONE = Limits()  # for whom there are no others


class Standing(NamedTuple):
    """A caller that was let in, with its key and its bounds."""

    caller: Caller
    key: VirtualKey | None = None
    bounds: tuple[Bound, ...] = ()

    def may_ask(self, model_id: str) -> bool:
        """Say whether its key is for a model."""
        return self.key is None or self.key.may_ask(model_id)

    def check(self, model_id: str, fallbacks: Iterable[str] = ()) -> None:
        """Raise PermissionDenied if the key is not for one of these models."""
        if self.key is not None and not all(map(self.key.may_ask, (model_id, *fallbacks))):
            raise PermissionDenied("this key may not ask this model", reason="MODEL_NOT_ALLOWED")


class Accounts:
    """The one door between calls and the books."""

    def __init__(self, ledger: Ledger, budgets: Budgets, keys: Keys, spending: Spending) -> None:
        self.keys = keys
        self._ledger = ledger
        self._budgets = budgets
        self.use(spending)

    def use(self, spending: Spending) -> None:
        """Take over what is configured."""
        self._assumed_output = spending.assumed_output_tokens
        self._default = _limits(spending.default)
        self._tenants: Mapping[str, Limits] = {one.tenant: _limits(one) for one in spending.tenants}

    async def look(self, caller: Caller) -> Standing:
        """Return who asks, without counting a request for an answer; raise Unauthenticated for a key that is over."""
        return Standing(caller, await self.keys.get(caller.key_id) if caller.key_id else None)

    async def enter(self, caller: Caller) -> Standing:
        """Let a request in; raise Unauthenticated for a key that is over, ResourceExhausted beyond its rate."""
        limits = self._tenants.get(caller.tenant, self._default)
        if not caller.key_id and limits is _NONE:
            return Standing(caller)
        key = await self.keys.get(caller.key_id) if caller.key_id else None
        bounds = [Bound((caller.tenant, ""), limits)] if limits.bound else []
        if key is not None and key.limits.bound:
            bounds.append(Bound((caller.tenant, key.id), key.limits))
        for bound in bounds:
            if bound.limits.budget_day or bound.limits.budget_month:
                await self._ledger.learn(bound.holder)
        self._budgets.admit(bounds)
        return Standing(caller, key, tuple(bounds))

    def hit(self, standing: Standing, at: Deployment) -> None:
        """Book a request that cost nothing."""
        self._ledger.add_request(_account(standing.caller, at.name))

    def open_tab(
        self, standing: Standing, at: Sequence[Deployment], input_tokens: Callable[[], int], output_tokens: int | None
    ) -> "Tab":
        """Set aside what a call may use at the costliest of these places; raise ResourceExhausted if it is too much.

        `output_tokens` is the request's own bound, 0 if it has none, None if nothing is written. Close the tab when
        the call has ended, however it did.
        """
        reservation = NOTHING
        if standing.bounds:
            wanted = Usage(input_tokens(), 0 if output_tokens is None else output_tokens or self._assumed_output)
            cost = max((one.price.of(wanted) for one in at if one.price is not None), default=0)
            tokens = wanted.input_tokens + wanted.output_tokens
            reservation = self._budgets.reserve(standing.bounds, tokens, cost)
        return Tab(self._ledger, self._budgets, standing.caller, reservation)

    @property
    def today(self) -> str:
        """Return the day, UTC, as 2026-11-26."""
        return self._ledger.today

    async def aclose(self) -> None:
        """Write what is not written down yet, and let the books go."""
        await self._ledger.aclose()

    async def usage(self, query: UsageQuery) -> list[UsageSum]:
        """Add up, with what is not written down yet; raise Unavailable."""
        await self._ledger.flush()
        return await self._ledger.books.usage(query)


class Tab:
    """What one request runs up, over as many calls as it takes."""

    def __init__(self, ledger: Ledger, budgets: Budgets, caller: Caller, reservation: Reservation) -> None:
        self._ledger = ledger
        self._budgets = budgets
        self._caller = caller
        self._reservation = reservation
        self._tokens = 0
        self._requests = 1

    def record(self, record: CallRecord) -> None:
        """Book a call that has ended."""
        self.book(f"{record.provider}/{record.model}", record.usage, calls=1)

    def book(self, place: str, usage: Usage, *, calls: int) -> None:
        """Book what was used at PROVIDER/MODEL."""
        self._tokens += usage.input_tokens + usage.output_tokens
        self._ledger.add(_account(self._caller, place), _totals(usage, requests=self._requests, calls=calls))
        self._requests = 0

    def close(self) -> None:
        """Put back what is left of what was set aside. Closing twice is allowed."""
        self._budgets.settle(self._reservation, self._tokens)


def _account(caller: Caller, place: str) -> Account:
    return Account(caller.tenant, caller.key_id, place, caller.task_id)


def _totals(usage: Usage, *, requests: int, calls: int) -> Totals:
    return Totals(
        requests,
        calls,
        usage.input_tokens,
        usage.output_tokens,
        usage.cached_input_tokens,
        usage.cache_write_tokens,
        usage.reasoning_tokens,
        usage.cost_nano_usd,
    )


def _limits(settings: SpendLimits) -> Limits:
    limits = Limits(
        round(settings.budget_day_usd * NANO),
        round(settings.budget_month_usd * NANO),
        settings.requests_per_minute,
        settings.tokens_per_minute,
    )
    return limits if limits.bound else _NONE
