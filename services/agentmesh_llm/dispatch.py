"""Asks one place after the other until one of them begins to answer."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from agentmesh.kit import names, telemetry
from agentmesh.kit.errors import MeshError, NotFound, ResourceExhausted, Unavailable, WrongState
from agentmesh_llm.counting import characters_of, roughly
from agentmesh_llm.deployments import Deployment, next_of, soonest
from agentmesh_llm.domain import Delta, EmbedQuestion, Finish, Question, Usage, Vectors, size_of_text

log = telemetry.logger(__name__)

_calls = telemetry.counter(names.LLM_CALLS_TOTAL, "Calls to model providers", ("provider", "model", "status"))
_tokens = telemetry.counter(names.LLM_TOKENS_TOTAL, "Tokens that calls consumed", ("provider", "model", "kind"))
_fallbacks = telemetry.counter(names.LLM_FALLBACKS_TOTAL, "Calls that went on elsewhere", ("provider", "model"))

_ELSEWHERE = (Unavailable, ResourceExhausted, WrongState, NotFound)
"""Down, at its limit, with a key that is not taken, or without the model: another place may be better."""


@dataclass(frozen=True, slots=True)
class Ways:
    """The places that a question may go to: those of the model that was asked for, then each fallback's in turn."""

    groups: Sequence[Sequence[Deployment]]

    def next(self, tried: Sequence[Deployment]) -> Deployment | None:
        """Return where to ask next, if there is anywhere left."""
        found = (next_of(group, tried) for group in self.groups)
        return next((one for one in found if one is not None), None)

    def refusal(self) -> MeshError:
        """Return why nobody can be asked at all."""
        return soonest([one for group in self.groups for one in group])


async def stream(ways: Ways, question: Question) -> AsyncGenerator[Sequence[Delta], None]:
    """Yield the answer's deltas; the Finish says who gave it.

    What fails before the first word, for a reason that another place may not have, is asked elsewhere: each place
    once. After it the answer is that place's, and breaks off with it. Raises the last place's error.
    """
    tried: list[Deployment] = []
    last: MeshError | None = None
    while (one := ways.next(tried)) is not None:
        _note(tried, last)
        tried.append(one)
        said = False
        try:
            async with aclosing(_from(one, replace(question, model=one.model))) as batches:
                async for batch in batches:
                    said = True
                    yield batch
            return
        except _ELSEWHERE as error:
            if said:
                raise
            last = error
    raise last or ways.refusal()


async def embed(ways: Ways, question: EmbedQuestion, timeout_s: float) -> Vectors:
    """Return vectors from the first place that makes them; raise as `stream` does."""
    tried: list[Deployment] = []
    last: MeshError | None = None
    while (one := ways.next(tried)) is not None:
        _note(tried, last)
        tried.append(one)
        one.begin()
        error: BaseException | None = None
        usage = Usage()
        try:
            async with asyncio.timeout(timeout_s):
                vectors = await one.offer.provider.embed(replace(question, model=one.model))
            usage = vectors.usage
            return vectors
        except _ELSEWHERE as failed:
            error = last = failed
        except BaseException as failed:
            error = failed
            raise
        finally:
            one.end(error)
            count(one, error, usage)
    raise last or ways.refusal()


async def _from(one: Deployment, question: Question) -> AsyncGenerator[Sequence[Delta], None]:
    """Yield a place's answer, and take note of how it fares there."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    one.begin()
    error: BaseException | None = None
    usage: Usage | None = None
    said, silent, whole = 0, True, False
    try:
        async with aclosing(one.offer.provider.stream(question)) as batches:
            async for batch in batches:
                if batch and silent:
                    silent = False
                    one.spoke(loop.time() - began)
                said += sum(map(size_of_text, batch))
                usage = next((delta for delta in reversed(batch) if isinstance(delta, Usage)), usage)
                if batch and isinstance(batch[-1], Finish):
                    whole = True
                    yield [*batch[:-1], replace(batch[-1], provider=one.offer.name, deployment=one.name)]
                else:
                    yield batch
    except BaseException as failed:
        error = None if whole else failed
        raise
    finally:
        one.end(error)
        if usage is None and (said or isinstance(error, asyncio.CancelledError | GeneratorExit)):
            # It is paid for all the same, though the provider did not come to say how much.
            _count_tokens(one, "_estimated", Usage(roughly(characters_of(question.messages)), roughly(said)))
        count(one, error, usage or Usage())


def _note(tried: Sequence[Deployment], error: MeshError | None) -> None:
    """Note that another place is asked, if there was one before."""
    if error is not None:
        left = tried[-1]
        _fallbacks.labels(left.offer.name, left.model).inc()
        log.info("asking_elsewhere", provider=left.offer.name, model=left.model, reason=error.reason)


def count(one: Deployment, error: BaseException | None, usage: Usage) -> None:
    """Count a call and what it consumed."""
    if error is None:
        status = "success"
    elif isinstance(error, MeshError):
        status = error.code.name.lower()
    elif isinstance(error, TimeoutError):
        status = "deadline_exceeded"
    else:
        status = "cancelled" if isinstance(error, asyncio.CancelledError | GeneratorExit) else "internal"
    _calls.labels(one.offer.name, one.model, status).inc()
    _count_tokens(one, "", usage)


def _count_tokens(one: Deployment, suffix: str, usage: Usage) -> None:
    for kind, tokens in (
        ("input", usage.input_tokens),
        ("output", usage.output_tokens),
        ("cached_input", usage.cached_input_tokens),
    ):
        if tokens > 0:
            _tokens.labels(one.offer.name, one.model, kind + suffix).inc(tokens)
