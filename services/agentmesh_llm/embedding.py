"""Turns many small requests for vectors into few large ones at the provider, and asks for no text twice."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from agentmesh.kit import names, telemetry
from agentmesh.kit.batching import Batcher, KeyedBatcher, QueueFull
from agentmesh.kit.errors import InvalidRequest, ResourceExhausted
from agentmesh.kit.floats import packed, unpacked
from agentmesh_llm import counting, dispatch
from agentmesh_llm.cache_keys import vector_keys
from agentmesh_llm.caching import AnswerCache, CacheUse, not_cached
from agentmesh_llm.calls import Caller, CallRecord
from agentmesh_llm.catalogue import Served
from agentmesh_llm.dispatch import Ways
from agentmesh_llm.domain import EmbedQuestion, Usage, Vectors

_IN_FLIGHT = 4  # batches of one tenant for one model
_OVERLAP_AT = 64  # texts that wait make a further batch worth while
_BUSY_WAIT_S = 0.02  # less than a provider takes: only a burst at one that is very quick waits
_MAX_QUEUED = 10_000
_MAX_KEYS = 1024
_MAX_BYTES = 512 * 1024  # of texts in one call: some providers bound its tokens

_inputs = telemetry.counter(names.LLM_BATCH_INPUTS_TOTAL, "Texts that were sent to be embedded", ("model",))


@dataclass(frozen=True, slots=True)
class _Key:
    """Texts of different tenants never share a call: its usage, its errors and its timing are theirs."""

    tenant: str
    served: Served
    dimensions: int


@dataclass(frozen=True, slots=True)
class _Vector:
    values: list[float]
    input_tokens: int
    model: str


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors in the order of their texts, and how many of them were cached."""

    vectors: Vectors
    cached: int


class Embedder:
    """Embeds texts: at once when nothing is under way, else together with what comes meanwhile."""

    def __init__(self, cache: AnswerCache) -> None:
        self._cache = cache
        self._batchers: KeyedBatcher[_Key, str, _Vector] = KeyedBatcher(self._batcher, max_keys=_MAX_KEYS)

    async def embed(self, tenant: str, served: Served, question: EmbedQuestion, use: CacheUse | None) -> Embedded:
        """Return a vector for each text; raise what the provider's answer means, for the texts it is about."""
        texts = list(dict.fromkeys(question.inputs))
        keys = vector_keys(tenant, served.model, question.dimensions, texts)
        found: dict[str, _Vector] = {}
        if use is not None and use.look:
            for text, entry in zip(texts, await self._cache.find(keys, "vector"), strict=True):
                if entry is not None:
                    found[text] = _Vector(unpacked(entry), 0, "")
        cached = sum(text in found for text in question.inputs)
        missing = [text for text in texts if text not in found]
        if missing and use is not None and use.only:
            raise not_cached()
        made = await self._ask(_Key(tenant, served, question.dimensions), missing)
        found.update(made)
        if use is not None and use.keep:
            where = dict(zip(texts, keys, strict=True))
            self._cache.keep([(where[text], packed(vector.values)) for text, vector in made.items()], use.ttl_s)
        usage = Usage(input_tokens=sum(vector.input_tokens for vector in made.values()))
        model = next((vector.model for vector in made.values()), "")
        return Embedded(Vectors([found[text].values for text in question.inputs], usage, model), cached)

    async def aclose(self) -> None:
        """Let what is under way end."""
        await self._batchers.aclose()

    async def _ask(self, key: _Key, texts: Sequence[str]) -> dict[str, _Vector]:
        made: dict[str, _Vector] = {}
        # No more than one call's worth at a time: others come in between.
        size = key.served.embedding_batch
        for start in range(0, len(texts), size):
            some = texts[start : start + size]
            try:
                futures = [self._batchers.submit_nowait(key, text) for text in some]
            except QueueFull as error:
                raise ResourceExhausted(
                    "too many texts wait to be embedded", reason=names.QUEUE_FULL, retry_after_s=1
                ) from error
            made.update(zip(some, await asyncio.gather(*futures), strict=True))
        return made

    def _batcher(self, key: _Key) -> Batcher[str, _Vector]:
        return Batcher(
            lambda texts: self._embed(key, texts),
            max_items=key.served.embedding_batch,
            max_bytes=_MAX_BYTES,
            size_of=len,
            busy_wait_s=_BUSY_WAIT_S,
            max_queued=_MAX_QUEUED,
            max_in_flight=_IN_FLIGHT,
            overlap_at=_OVERLAP_AT,
            name="embed",
        )

    async def _embed(self, key: _Key, texts: list[str]) -> list[_Vector | BaseException]:
        """Embed a batch; a text that was asked for by several callers is sent once, and paid by the first."""
        several = list(dict.fromkeys(texts))
        results = dict(zip(several, await self._embed_or_split(key, several), strict=True))
        said: set[str] = set()
        answers: list[_Vector | BaseException] = []
        for text in texts:
            result = results[text]
            if text in said and isinstance(result, _Vector):
                result = _Vector(result.values, 0, result.model)
            said.add(text)
            answers.append(result)
        return answers

    async def _embed_or_split(self, key: _Key, texts: list[str]) -> list[_Vector | BaseException]:
        try:
            return list(await self._call(key, texts))
        except InvalidRequest as refused:
            if len(texts) == 1:
                return [refused]
        # Somebody's text is bad. In halves, it is found with few calls, and alone it fails.
        half = len(texts) // 2
        return [*await self._embed_or_split(key, texts[:half]), *await self._embed_or_split(key, texts[half:])]

    async def _call(self, key: _Key, texts: list[str]) -> list[_Vector]:
        served = key.served
        question = EmbedQuestion(served.model.name, tuple(texts), key.dimensions)
        vectors = await dispatch.once(
            Ways([served.deployments]),
            lambda one: one.offer.provider.embed(replace(question, model=one.model)),
            served.total_timeout_s,
            Caller(key.tenant),
            _not_booked,
        )
        _inputs.labels(served.model.id).inc(len(texts))
        shares = shared_out(vectors.usage.input_tokens, [counting.tokens_of_text(text) for text in texts])
        return [_Vector(values, tokens, vectors.model) for values, tokens in zip(vectors.values, shares, strict=True)]


def _not_booked(_: CallRecord) -> None:
    """Leave a batch out of the books: each of its callers has a share of it."""


def shared_out(total: int, weights: Sequence[int]) -> list[int]:
    """Part a whole number by weights, so that the parts add up to it."""
    parts: list[int] = []
    weight_so_far, given = 0, 0
    whole = sum(weights) or 1
    for weight in weights:
        weight_so_far += weight
        upto = total * weight_so_far // whole
        parts.append(upto - given)
        given = upto
    if parts:
        parts[-1] += total - given
    return parts
