"""Turns many small requests about texts into few large ones at the provider, and asks for no text twice."""

import asyncio
from collections.abc import Awaitable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from agentmesh.kit import names, telemetry
from agentmesh.kit.batching import Batcher, QueueFull
from agentmesh.kit.errors import InvalidRequest, ResourceExhausted
from agentmesh.kit.keyed_batching import KeyedBatcher
from agentmesh_llm.answers.cache_keys import CacheKey
from agentmesh_llm.answers.caching import AnswerCache, CacheUse, not_cached
from agentmesh_llm.batches import shares
from agentmesh_llm.batches.bills import Bill
from agentmesh_llm.batches.text_work import Work
from agentmesh_llm.books.prices import Price
from agentmesh_llm.domain import Batch, Usage
from agentmesh_llm.routing import dispatch
from agentmesh_llm.routing.catalogue import Served
from agentmesh_llm.routing.deployments import Deployment
from agentmesh_llm.routing.dispatch import Ways
from agentmesh_llm.watching.calls import Caller, CallRecord

V = TypeVar("V")
T = TypeVar("T", bound=Hashable)

_IN_FLIGHT = 4  # batches of one group
_OVERLAP_AT = 64  # texts that wait make a further batch worth while
_BUSY_WAIT_S = 0.04  # less than a provider takes: only a burst at one that is very quick waits
_MAX_QUEUED = 10_000
_MAX_GROUPS = 4096
_MAX_BYTES = 512 * 1024  # of texts in one call: some providers bound its tokens

_inputs = telemetry.counter(names.LLM_BATCH_INPUTS_TOTAL, "Texts that were sent in batches", ("model",))
_waiting = telemetry.gauge(names.LLM_BATCH_WAITING, "Texts that wait for a batch", ("kind",))
_batches = telemetry.counter(names.LLM_BATCHES_TOTAL, "Batches that were sent", ("model",))


@dataclass(frozen=True, slots=True)
class Answered(Generic[V]):
    """What one request gets: a value for each of its texts, how many of them were cached, and whether it had to ask."""

    values: list[V]
    usage: Usage
    model: str
    cached: int
    asked: bool


@dataclass(frozen=True, slots=True)
class _Group(Generic[T]):
    """Texts that may share a call: of one tenant, whose usage, errors and timing are its own, or of all ("")."""

    tenant: str
    served: Served
    terms: T


@dataclass(frozen=True, slots=True)
class _Text:
    """A request's text; those of one tenant with one number are one."""

    bill: Bill
    text: str
    number: int

    @property
    def same(self) -> tuple[str, str, int]:
        return self.bill.caller.tenant, self.text, self.number


@dataclass(frozen=True, slots=True)
class _Made(Generic[V]):
    """A text's value, and what it cost whoever asked for it first."""

    value: V
    usage: Usage
    model: str
    asked: bool


class MicroBatcher(Generic[T, V]):
    """Does work on texts: at once when nothing is under way, else together with what comes meanwhile.

    If the provider refuses a call, halves of it are tried, so that a bad text fails alone. What a call consumed is
    parted among its texts, and each request's part goes on its bill, even if its caller has left.
    """

    def __init__(self, work: Work[T, V], cache: AnswerCache) -> None:
        self._work = work
        self._cache = cache
        self._number = 0
        self._batchers: KeyedBatcher[_Group[T], _Text, _Made[V]] = KeyedBatcher(self._batcher, max_keys=_MAX_GROUPS)
        _waiting.labels(work.kind).set_function(lambda: self._batchers.queued)

    async def answer(
        self, bill: Bill, served: Served, terms: T, texts: Sequence[str], use: CacheUse | None, *, alike: bool = True
    ) -> Answered[V]:
        """Return a value for each text, one for all equal ones if `alike`, and end the bill.

        Raises what the provider's answer means for the texts it is about, ResourceExhausted if too many wait, and
        NotFound if only cached values will do and one isn't.
        """
        try:
            return await self._answer(bill, served, terms, texts, use, alike)
        finally:
            bill.end()

    async def aclose(self) -> None:
        """Let what is under way end."""
        await self._batchers.aclose()

    async def _answer(
        self, bill: Bill, served: Served, terms: T, texts: Sequence[str], use: CacheUse | None, alike: bool
    ) -> Answered[V]:
        items = [_Text(bill, text, 0 if alike else self._next_number()) for text in texts]
        several = list(dict.fromkeys(items))
        keys: list[CacheKey] = []
        found: dict[_Text, _Made[V]] = {}
        if use is not None:
            keys = self._work.keys(bill.caller.tenant, served, terms, [item.text for item in several])
            if use.look:
                for item, entry in zip(several, await self._cache.find(keys, self._work.kind), strict=True):
                    if entry is not None:
                        found[item] = _Made(self._work.read(entry), Usage(), "", asked=False)
        cached = sum(item in found for item in items)
        missing = [item for item in several if item not in found]
        if missing and use is not None and use.only:
            raise not_cached()
        group = _Group("" if served.shares_batches else bill.caller.tenant, served, terms)
        made = await self._ask(group, missing)
        found.update(made)
        if use is not None and use.keep:
            self._keep(dict(zip(several, keys, strict=True)), made, use)
        usage = shares.together(one.usage for one in made.values())
        model = next((one.model for one in made.values()), "")
        values = [found[item].value for item in items]
        return Answered(values, usage, model, cached, any(one.asked for one in made.values()))

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    def _keep(self, where: dict[_Text, CacheKey], made: dict[_Text, _Made[V]], use: CacheUse) -> None:
        written = [(where[item], self._work.write(one.value)) for item, one in made.items()]
        self._cache.keep([(key, entry) for key, entry in written if entry is not None], use.ttl_s)

    async def _ask(self, group: _Group[T], items: Sequence[_Text]) -> dict[_Text, _Made[V]]:
        made: dict[_Text, _Made[V]] = {}
        # No more than one call's worth at a time: a line that is bounded has room for others.
        size = self._work.most(group.served)
        for start in range(0, len(items), size):
            some = items[start : start + size]
            try:
                futures = [self._batchers.submit_nowait(group, item) for item in some]
            except QueueFull as error:
                raise ResourceExhausted(
                    "too many texts wait for the model", reason=names.QUEUE_FULL, retry_after_s=1
                ) from error
            made.update(zip(some, await asyncio.gather(*futures), strict=True))
        return made

    def _batcher(self, group: _Group[T]) -> Batcher[_Text, _Made[V]]:
        return Batcher(
            lambda items: self._handle(group, items),
            max_items=self._work.most(group.served),
            max_bytes=_MAX_BYTES,
            size_of=lambda item: len(item.text),
            busy_wait_s=_BUSY_WAIT_S,
            max_queued=_MAX_QUEUED,
            max_in_flight=_IN_FLIGHT,
            overlap_at=_OVERLAP_AT,
            turn_of=lambda item: (item.bill.caller.tenant, item.bill),
            name=self._work.kind,
        )

    async def _handle(self, group: _Group[T], items: list[_Text]) -> list[_Made[V] | BaseException]:
        """Answer a batch; a text that several callers of a tenant asked for is sent once, and paid by the first."""
        firsts: dict[tuple[str, str, int], _Text] = {}
        for item in items:
            firsts.setdefault(item.same, item)
        results = dict(zip(firsts, await self._call_or_split(group, list(firsts.values())), strict=True))
        answers: list[_Made[V] | BaseException] = []
        for item in items:
            result = results[item.same]
            if item is not firsts[item.same] and isinstance(result, _Made):
                result = replace(result, usage=Usage(), asked=False)
            answers.append(result)
        return answers

    async def _call_or_split(self, group: _Group[T], items: list[_Text]) -> list[_Made[V] | BaseException]:
        try:
            return list(await self._call(group, items))
        except InvalidRequest as refused:
            if len(items) == 1:
                return [refused]
        # Somebody's text is bad. In halves, it is found with few calls, and alone it fails.
        half = len(items) // 2
        return [*await self._call_or_split(group, items[:half]), *await self._call_or_split(group, items[half:])]

    async def _call(self, group: _Group[T], items: list[_Text]) -> list[_Made[V]]:
        served, texts = group.served, [item.text for item in items]
        bills = list(dict.fromkeys(item.bill for item in items))
        records: list[CallRecord] = []
        parts = [Usage()] * len(items)
        asked: list[Deployment] = []

        def ask(one: Deployment) -> Awaitable[Batch[V]]:
            asked.append(one)
            return self._work.ask(one.offer.provider, one.model, group.terms, texts)

        for bill in bills:
            bill.call_began()
        try:
            batch = await dispatch.once(
                Ways([served.deployments]),
                ask,
                max(bill.deadline for bill in bills),  # nobody waits for it after that
                _account(bills),
                records.append,
                operation=self._work.operation,
            )
            parts = self._parts(group, texts, batch, asked[-1].price)
        finally:
            _book(records, items, parts)
            for bill in bills:
                bill.call_ended()
        _batches.labels(served.model.id).inc()
        _inputs.labels(served.model.id).inc(len(texts))
        return [_Made(value, part, batch.model, True) for value, part in zip(batch.values, parts, strict=True)]

    def _parts(self, group: _Group[T], texts: Sequence[str], batch: Batch[V], price: Price | None) -> list[Usage]:
        if len(texts) == 1:
            return [batch.usage]
        pairs = zip(texts, batch.values, strict=True)
        weights = [self._work.weight(group.terms, text, value) for text, value in pairs]
        return shares.usages(batch.usage, weights, lambda part: 0 if price is None else price.of(part))


def _book(records: Sequence[CallRecord], items: Sequence[_Text], parts: Sequence[Usage]) -> None:
    """Put each request's part of a call on its bill, and on every bill the calls that came to nothing before it."""
    by_bill: dict[Bill, list[Usage]] = {}
    for item, part in zip(items, parts, strict=True):
        by_bill.setdefault(item.bill, []).append(part)
    for record in records:
        for bill, usages in by_bill.items():
            usage = shares.together(usages) if record.status == "success" else Usage()
            bill.observe(record._replace(caller=bill.caller, usage=usage))


def _account(bills: Sequence[Bill]) -> Caller:
    """Return whose turn a call takes: the only caller's, else that of the tenant whose text is first."""
    callers = {bill.caller for bill in bills}
    if len(callers) == 1:
        return bills[0].caller
    traces = dict.fromkeys(bill.caller.traceparent for bill in bills if bill.caller.traceparent)
    return Caller(bills[0].caller.tenant, links=tuple(traces))
