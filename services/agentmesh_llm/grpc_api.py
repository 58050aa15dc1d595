"""The handlers of LlmService."""

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.kit import names
from agentmesh.kit.rpc_server import Call
from agentmesh_llm import checks, usage_wire, wire
from agentmesh_llm.answers.caching import Recalled, whole_of
from agentmesh_llm.answers.joining import JoinKey
from agentmesh_llm.batches import batch_wire
from agentmesh_llm.batches.reranking import best
from agentmesh_llm.books.accounts import Standing
from agentmesh_llm.domain import Delta
from agentmesh_llm.routing.catalogue import Served
from agentmesh_llm.service import AnyReader, ModelDesk
from agentmesh_llm.watching.calls import Caller


class _Asked(NamedTuple):
    """Who asks, who is to answer, under which key, and what the cache has to do with it."""

    standing: Standing
    served: Served
    key: JoinKey | None
    recalled: Recalled | None

    @property
    def entry(self) -> bytes | None:
        return self.recalled.entry if self.recalled is not None else None


class LlmApi:
    """Answers runners, routers and the gateway."""

    def __init__(self, desk: ModelDesk) -> None:
        self._desk = desk

    async def generate(self, request: pb.GenerateRequest, call: Call) -> pb.GenerateResponse | bytes:
        """Return a whole answer: the stream, folded."""
        asked = await self._recall(request, call)
        if asked.entry is not None:
            return whole_of(asked.entry)
        reader = self._open(asked, request, call, unary=True)
        try:
            deltas: list[Delta] = []
            while batch := await reader.next_batch():
                deltas += batch
            return wire.to_response(deltas, asked.served.model, joined=reader.joined, cache=_outcome(asked, reader))
        finally:
            await reader.aclose()

    async def stream_generate(
        self, request: pb.StreamGenerateRequest, call: Call
    ) -> AsyncIterator[pb.StreamGenerateResponse | bytes]:
        """Send an answer's pieces, all that are ready in one message."""
        asked = await self._recall(request.request, call)
        if asked.entry is not None:
            yield asked.entry
            return
        reader = self._open(asked, request.request, call, unary=False)
        try:
            while batch := await reader.next_batch():
                yield pb.StreamGenerateResponse(deltas=self._written(batch, asked, reader))
                await reader.linger()
        finally:
            await reader.aclose()

    async def cancel_generate(self, request: pb.CancelGenerateRequest, call: Call) -> pb.CancelGenerateResponse:
        """Stop a call by its key."""
        if not 1 <= len(request.idempotency_key) <= checks.MAX_KEY_CHARACTERS:
            checks.refuse([("idempotency_key", f"must be 1 to {checks.MAX_KEY_CHARACTERS} characters")])
        canceled = await self._desk.cancel(_tenant(call), request.idempotency_key)
        return pb.CancelGenerateResponse(canceled=canceled)

    async def embed(self, request: pb.EmbedRequest, call: Call) -> pb.EmbedResponse:
        """Return vectors."""
        standing = await self._desk.accounts.enter(_caller(call))
        question = wire.from_embed_request(request)
        served, embedded = await self._desk.batches.embed(standing, question, request.cache, self._patience_s(call))
        return pb.EmbedResponse(
            embeddings=[pb.Embedding(values=values) for values in embedded.values],
            usage=wire.to_usage(embedded.usage, served.model.id, calls=int(embedded.asked)),
            model=embedded.model or served.model.name,
            cached=embedded.cached,
        )

    async def rerank(self, request: pb.RerankRequest, call: Call) -> pb.RerankResponse:
        """Return documents by how well they fit."""
        standing = await self._desk.accounts.enter(_caller(call))
        question = batch_wire.from_rerank_request(request)
        served, scored = await self._desk.batches.rerank(standing, question, request.cache, self._patience_s(call))
        ranked = best(scored.values, request.top_n)
        return pb.RerankResponse(
            rankings=[pb.Ranking(document=document, score=score) for document, score in ranked],
            usage=wire.to_usage(scored.usage, served.model.id, calls=int(scored.asked)),
            model=scored.model or served.model.name,
            cached=scored.cached,
        )

    async def complete_prompts(self, request: pb.CompletePromptsRequest, call: Call) -> pb.CompletePromptsResponse:
        """Return how texts go on."""
        standing = await self._desk.accounts.enter(_caller(call))
        question = batch_wire.from_prompts_request(request)
        served, written = await self._desk.batches.complete(standing, question, request.cache, self._patience_s(call))
        return pb.CompletePromptsResponse(
            completions=map(batch_wire.to_completion, written.values),
            usage=wire.to_usage(written.usage, served.model.id, calls=int(written.asked)),
            model=written.model or served.model.name,
            cached=written.cached,
        )

    async def get_usage(self, request: pb.GetUsageRequest, call: Call) -> pb.GetUsageResponse:
        """Add up what was used."""
        tenant = call.tenant if call.identity.role == names.OPERATOR else _tenant(call)
        query = usage_wire.from_request(request, tenant, today=self._desk.accounts.today)
        return usage_wire.to_response(query, await self._desk.accounts.usage(query))

    async def purge_cache(self, request: pb.PurgeCacheRequest, call: Call) -> pb.PurgeCacheResponse:
        """Forget cached answers."""
        checks.check_pattern(request.model_pattern)
        return pb.PurgeCacheResponse(purged=await self._desk.purge(_tenant(call), request.model_pattern))

    async def count_tokens(self, request: pb.CountTokensRequest, call: Call) -> pb.CountTokensResponse:
        """Estimate how long a request is."""
        checks.check_messages(request.messages)
        count = await self._desk.count_tokens(request.model, wire.from_messages(request.messages))
        return pb.CountTokensResponse(input_tokens=count, estimated=True)

    async def list_models(self, request: pb.ListModelsRequest, call: Call) -> pb.ListModelsResponse:
        """Return every model that the caller may ask."""
        standing = await self._desk.accounts.look(_caller(call))
        models = [model for model in self._desk.models() if standing.may_ask(model.id)]
        return pb.ListModelsResponse(models=map(wire.to_model, models))

    async def get_model(self, request: pb.GetModelRequest, call: Call) -> pb.GetModelResponse:
        """Return one model."""
        (await self._desk.accounts.look(_caller(call))).check(request.model)
        return pb.GetModelResponse(model=wire.to_model(self._desk.model(request.model)))

    async def _recall(self, request: pb.GenerateRequest, call: Call) -> _Asked:
        standing = await self._desk.accounts.enter(_caller(call))
        served = self._desk.resolve(request.model)
        key = None
        if request.idempotency_key:
            key = JoinKey(_tenant(call), request.idempotency_key, wire.digest_of(request))
        if request.HasField("cache"):
            checks.check_policy(request.cache)
        return _Asked(standing, served, key, await self._desk.recall(standing, served, request, key))

    def _open(self, asked: _Asked, request: pb.GenerateRequest, call: Call, *, unary: bool) -> AnyReader:
        question = wire.from_request(request)
        bound = asked.served.total_timeout_s if unary else self._desk.bounds.stream_s
        return self._desk.ask(
            asked.served,
            question,
            asked.key,
            asked.recalled,
            call.remaining_s(bound),
            asked.standing,
            fallbacks=request.fallbacks,
        )

    def _patience_s(self, call: Call) -> float:
        return call.remaining_s(self._desk.bounds.stream_s)

    def _written(self, batch: Sequence[Delta], asked: _Asked, reader: AnyReader) -> list[pb.Delta]:
        outcome = _outcome(asked, reader)
        return [wire.to_delta(delta, asked.served.model, joined=reader.joined, cache=outcome) for delta in batch]


def _outcome(asked: _Asked, reader: AnyReader) -> "pb.CacheOutcome.ValueType":
    if asked.recalled is None:
        return pb.CACHE_OUTCOME_UNSPECIFIED
    return pb.CACHE_OUTCOME_COALESCED if reader.coalesced else pb.CACHE_OUTCOME_MISS


def _caller(call: Call) -> Caller:
    task = call.identity.task
    task_id = task.task_id if task else ""
    # Where none came the trace begins with the first call to a provider, which few requests lead to.
    traceparent = call.traceparent if call.received_traceparent else ""
    return Caller(_tenant(call), call.identity.key_id, task_id, traceparent)


def _tenant(call: Call) -> str:
    return call.tenant or names.DEFAULT_TENANT
