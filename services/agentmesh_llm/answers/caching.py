"""When an answer may be one that was given before, and what is kept of it."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.kit import names
from agentmesh.kit.answers import fold
from agentmesh.kit.errors import NotFound
from agentmesh.kit.tallies import Tallies
from agentmesh_llm import wire
from agentmesh_llm.answers.cache_keys import CacheKey
from agentmesh_llm.domain import (
    Delta,
    Finish,
    FinishReason,
    LogprobsDelta,
    Model,
    ReasoningDelta,
    TextDelta,
    Thought,
    ToolCallDelta,
)
from agentmesh_llm.ports import CacheStore

_lookups = Tallies(names.LLM_CACHE_LOOKUPS_TOTAL, "Looks into the cache", ("kind", "outcome"))

_Policy = pb.CachePolicy
_JITTER = 0.1  # what was kept together must not end together
_KEPT_WHOLE = 512
_SMALL_BYTES = 8 * 1024
_WHOLE = (FinishReason.STOP, FinishReason.LENGTH, FinishReason.TOOL_CALLS)


class CacheUse(NamedTuple):
    """What one request does with the cache; `only` means that the provider is not to be asked."""

    look: bool
    keep: bool
    only: bool
    ttl_s: float


class Recalled(NamedTuple):
    """What a request wants of the cache, where its answer lies there, and the answer if there is one."""

    use: CacheUse
    key: CacheKey
    entry: bytes | None


class AnswerCache:
    """Looks answers and vectors up by key, and keeps them. What the store can't do is a miss, never an error."""

    def __init__(self, store: CacheStore, *, ttl_s: float, chance: Callable[[], float] = random.random) -> None:
        self._store = store
        self._ttl_s = ttl_s
        self._usual = CacheUse(look=True, keep=True, only=False, ttl_s=ttl_s)
        self._chance = chance

    def use(self, policy: pb.CachePolicy | None, *, repeatable: bool) -> CacheUse | None:
        """Return what a request wants, or None if it has nothing to do with the cache."""
        if policy is None:
            return self._usual if repeatable else None
        mode = policy.mode
        if mode == _Policy.MODE_BYPASS or (mode == _Policy.MODE_UNSPECIFIED and not repeatable):
            return None
        ttl_s = policy.ttl.ToMilliseconds() / 1000 if policy.HasField("ttl") else self._ttl_s
        only = mode == _Policy.MODE_ONLY_IF_CACHED
        return CacheUse(look=mode != _Policy.MODE_REFRESH, keep=not only, only=only, ttl_s=ttl_s)

    async def find(self, keys: Sequence[CacheKey], kind: str) -> list[bytes | None]:
        """Return an entry for each key, from wherever it is kept, or None."""
        found = [self._store.near(key) for key in keys]
        missing = [at for at, entry in enumerate(found) if entry is None]
        if missing:
            for at, entry in zip(missing, await self._store.far([keys[at] for at in missing]), strict=True):
                found[at] = entry
        hits = sum(entry is not None for entry in found)
        _lookups.labels(kind, "hit").inc(hits)
        _lookups.labels(kind, "miss").inc(len(found) - hits)
        return found

    async def find_answer(self, key: CacheKey) -> bytes | None:
        """Return the entry of an answer, from wherever it is kept, or None."""
        entry = self._store.near(key)
        if entry is None:
            (entry,) = await self._store.far([key])
        _lookups.labels("answer", "miss" if entry is None else "hit").inc()
        return entry

    def keep(self, entries: Sequence[tuple[CacheKey, bytes]], ttl_s: float) -> None:
        """Keep entries, replacing older ones; where that can't be done now, it isn't."""
        self._store.put([(key, value, ttl_s * (1 - _JITTER * self._chance())) for key, value in entries])

    async def aclose(self) -> None:
        """Let the store go."""
        await self._store.aclose()

    async def purge(self, tenant: str, model_pattern: str) -> int:
        """Forget a tenant's entries for models that fit a pattern with `*`; return how many there were."""
        return await self._store.purge(tenant, model_pattern or "*")


def is_repeatable(request: pb.GenerateRequest) -> bool:
    """Say whether the caller asks for the same answer each time."""
    if not request.HasField("sampling"):
        return False
    sampling = request.sampling
    return sampling.HasField("seed") or (sampling.HasField("temperature") and sampling.temperature == 0)


def not_cached() -> NotFound:
    """Make the answer to who wants only what is cached."""
    return NotFound("the answer is not cached", reason="NOT_CACHED")


def whole_of(entry: bytes) -> bytes:
    """Return a cached stream as the serialised answer that it makes."""
    # An entry that is asked for again and again is the same object, whose hash is known.
    return _whole_of_small(entry) if len(entry) <= _SMALL_BYTES else _whole_of(entry)


def _whole_of(entry: bytes) -> bytes:
    return fold(pb.StreamGenerateResponse.FromString(entry).deltas).SerializeToString()


_whole_of_small = lru_cache(_KEPT_WHOLE)(_whole_of)


def entry_of(deltas: Sequence[Delta], model: Model) -> bytes | None:
    """Write a whole answer as the one StreamGenerateResponse that replays it; None for what is not to be kept."""
    end = deltas[-1] if deltas else None
    if not isinstance(end, Finish) or end.reason not in _WHOLE:
        return None
    written = [wire.to_delta(delta, model, cache=pb.CACHE_OUTCOME_HIT) for delta in _merged(deltas)]
    return pb.StreamGenerateResponse(deltas=written).SerializeToString()


def _merged(deltas: Sequence[Delta]) -> list[Delta]:
    """Join neighbours of a kind: a replay need not come in the pieces that the model wrote."""
    return [_joined(list(group)) for _, group in groupby(deltas, key=_kind)]


def _joined(pieces: list[Delta]) -> Delta:
    first = pieces[0]
    if isinstance(first, TextDelta):
        return TextDelta("".join(piece.text for piece in pieces if isinstance(piece, TextDelta)))
    if isinstance(first, ReasoningDelta):
        return ReasoningDelta("".join(piece.text for piece in pieces if isinstance(piece, ReasoningDelta)))
    if isinstance(first, ToolCallDelta):
        arguments = "".join(piece.arguments for piece in pieces if isinstance(piece, ToolCallDelta))
        return replace(first, arguments=arguments)
    if isinstance(first, LogprobsDelta):
        return LogprobsDelta(
            tuple(token for piece in pieces if isinstance(piece, LogprobsDelta) for token in piece.tokens)
        )
    return pieces[-1]


def _kind(delta: Delta) -> object:
    if isinstance(delta, Thought):
        return id(delta)  # each ends a thought of its own
    return (ToolCallDelta, delta.index) if isinstance(delta, ToolCallDelta) else type(delta)
