"""Asks one place after the other until one of them begins to answer."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from agentmesh.kit import names, telemetry, trace_context, tracing
from agentmesh.kit.errors import MeshError, NotFound, ResourceExhausted, Unavailable, Unsupported, WrongState
from agentmesh.kit.semantic_names import CHAT
from agentmesh_llm.counting import characters_of, roughly
from agentmesh_llm.domain import Batch, Delta, Finish, Priority, Question, Usage, size_of_text
from agentmesh_llm.routing.deployments import Deployment, next_of, soonest
from agentmesh_llm.watching import call_metrics
from agentmesh_llm.watching.call_content import Transcript
from agentmesh_llm.watching.calls import Caller, CallRecord, Observer

log = telemetry.logger(__name__)
V = TypeVar("V")

_fallbacks = telemetry.counter(names.LLM_FALLBACKS_TOTAL, "Calls that went on elsewhere", ("provider", "model"))

_ELSEWHERE = (Unavailable, ResourceExhausted, WrongState, NotFound, Unsupported)
"""Down, at its limit, with a key that is not taken, without the model or a form for what is asked: another place may be
better."""


@dataclass(frozen=True, slots=True)
class Ways:
    """The places that a question may go to: those of the model that was asked for, then each fallback's in turn."""

    groups: Sequence[Sequence[Deployment]]

    def next(self, tried: Sequence[Deployment], priority: Priority = Priority.INTERACTIVE) -> Deployment | None:
        """Return where to ask next, if there is anywhere left; where a call would wait only if it would everywhere."""
        full = None
        for group in self.groups:
            one = next_of(group, tried, priority)
            if one is not None and not one.is_full:
                return one
            full = full or one
        return full

    def refusal(self) -> MeshError:
        """Return why nobody can be asked at all."""
        return soonest([one for group in self.groups for one in group])


async def stream(
    ways: Ways, question: Question, caller: Caller, observe: Observer
) -> AsyncGenerator[Sequence[Delta], None]:
    """Yield the answer's deltas; the Finish says who gave it.

    What fails before the first word, for a reason that another place may not have, is asked elsewhere: each place
    once. After it the answer is that place's, and breaks off with it. Raises the last place's error.
    """
    tried: list[Deployment] = []
    last: MeshError | None = None
    while (one := ways.next(tried, question.priority)) is not None:
        _note(tried, last)
        tried.append(one)
        said = False
        try:
            if not one.take():
                await one.wait(caller.tenant, question.priority)
            asked = question if question.model == one.model else question._replace(model=one.model)
            with _Attempt(one, caller, observe, asked) as attempt:
                batches = one.offer.provider.stream(asked)
                try:
                    async for batch in batches:
                        said = True
                        yield attempt.heard(batch)
                finally:
                    await batches.aclose()
            return
        except _ELSEWHERE as error:
            if said:
                raise
            last = error
    raise last or ways.refusal()


async def once(
    ways: Ways,
    ask: Callable[[Deployment], Awaitable[Batch[V]]],
    deadline: float,
    caller: Caller,
    observe: Observer,
    *,
    operation: str,
) -> Batch[V]:
    """Return what the first place answers that can, with one call and no stream; raise as `stream` does.

    `operation` is what it is called in metrics and traces. Raises TimeoutError at `deadline`, in the loop's time.
    """
    tried: list[Deployment] = []
    last: MeshError | None = None
    while (one := ways.next(tried)) is not None:
        _note(tried, last)
        tried.append(one)
        try:
            if not one.take():
                async with asyncio.timeout_at(deadline):
                    await one.wait(caller.tenant, Priority.INTERACTIVE)
            with _Attempt(one, caller, observe, operation=operation) as attempt:
                async with asyncio.timeout_at(deadline):
                    answered = await ask(one)
                attempt.usage, attempt.answered_by = attempt.priced(answered.usage), answered.model
                return replace(answered, usage=attempt.usage)
        except _ELSEWHERE as failed:
            last = failed
    raise last or ways.refusal()


class _Attempt:
    """One call to one place, which hears of its end, as do the metrics and the books."""

    def __init__(
        self,
        one: Deployment,
        caller: Caller,
        observe: Observer,
        question: Question | None = None,
        operation: str = CHAT,
    ) -> None:
        self.usage: Usage | None = None
        self.answered_by = ""
        self._one = one
        self._caller = caller
        self._observe = observe
        self._question = question
        self._operation = operation
        characters = one.offer.watch.content_characters if question is not None else 0
        self._transcript = Transcript(characters) if characters else None
        self._said = 0  # characters
        self._finish_reason = ""
        self._first_word_s: float | None = None
        self._span_id = ""
        if one.offer.send_traceparent:
            self._span_id = trace_context.new_span_id()
            self._caller = caller if caller.traceparent else caller._replace(traceparent=trace_context.root_context())
        self._began = time.monotonic()
        self._began_ns = time.time_ns()

    def __enter__(self) -> "_Attempt":
        if self._span_id:
            tracing.outgoing.set(trace_context.child_context(self._caller.traceparent, self._span_id))
        self._attempted = self._one.begin()
        return self

    def heard(self, batch: Sequence[Delta]) -> Sequence[Delta]:
        """Take note of a batch; return it with the place's names in its Finish."""
        if not batch:
            return batch
        if self._first_word_s is None:
            self._first_word_s = time.monotonic() - self._began
            self._one.spoke(self._first_word_s)
        self._said += sum(map(size_of_text, batch))
        if self._transcript is not None:
            self._transcript.hear(batch)
        end = batch[-1]
        if not isinstance(end, Finish):
            return batch
        usage = batch[-2]
        assert isinstance(usage, Usage)  # so does a provider's whole answer end
        self.usage = self.priced(usage)
        self._finish_reason, self.answered_by = end.reason.value, end.model
        return [*batch[:-2], self.usage, Finish(end.reason, end.model, self._one.offer.name, self._one.name)]

    def priced(self, usage: Usage) -> Usage:
        """Return what was used with its cost."""
        price = self._one.price
        return usage if price is None else usage._replace(cost_nano_usd=price.of(usage))

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if self._span_id:
            tracing.outgoing.set("")
        error = None if self._finish_reason else error
        self._one.end(self._attempted, error)
        usage, estimated = self.usage, False
        if usage is None and self._question is not None and (self._said or _is_left(error)):
            # It is paid for all the same, though the provider did not come to say how much.
            usage = self.priced(Usage(roughly(characters_of(self._question.messages)), roughly(self._said)))
            estimated = True
        offer = self._one.offer
        record = CallRecord(
            self._caller,
            offer.name,
            self._one.model,
            _status(error),
            usage or Usage(),
            estimated,
            time.monotonic() - self._began,
            self._first_word_s,
            operation=self._operation,
            server=offer.server,
            answered_by=self.answered_by,
            finish_reason=self._finish_reason,
            error_type=_error_type(error),
            began_ns=self._began_ns,
            span_id=self._span_id,
            content=self._transcript.content(self._question, self._finish_reason) if self._transcript else None,
        )
        call_metrics.count(record)
        offer.watch.observe(record)
        self._observe(record)


def _note(tried: Sequence[Deployment], error: MeshError | None) -> None:
    """Note that another place is asked, if there was one before."""
    if error is not None:
        left = tried[-1]
        _fallbacks.labels(left.offer.name, left.model).inc()
        log.info("asking_elsewhere", provider=left.offer.name, model=left.model, reason=error.reason)


def _is_left(error: BaseException | None) -> bool:
    return isinstance(error, asyncio.CancelledError | GeneratorExit)


def _error_type(error: BaseException | None) -> str:
    if error is None:
        return ""
    return (error.reason if isinstance(error, MeshError) else "") or _status(error)


def _status(error: BaseException | None) -> str:
    if error is None:
        return "success"
    if isinstance(error, MeshError):
        return error.code.name.lower()
    if isinstance(error, TimeoutError):
        return "deadline_exceeded"
    return "cancelled" if _is_left(error) else "internal"
