"""The handlers of LlmService."""

import asyncio
from collections.abc import AsyncIterator

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.api.types.v1 import types_pb2
from agentmesh.kit import names
from agentmesh.kit.errors import InvalidRequest
from agentmesh.kit.rpc_server import Call
from agentmesh_llm import checks, wire
from agentmesh_llm.answer import Reader
from agentmesh_llm.catalogue import Served
from agentmesh_llm.domain import Finish, ReasoningDelta, TextDelta, ToolCallDelta, Usage
from agentmesh_llm.joining import JoinKey
from agentmesh_llm.service import ModelDesk


class LlmApi:
    """Answers runners, routers and the gateway."""

    def __init__(self, desk: ModelDesk) -> None:
        self._desk = desk
        self._response_bytes = desk.bounds.response_bytes

    async def generate(self, request: pb.GenerateRequest, call: Call) -> pb.GenerateResponse:
        """Return a whole answer: the stream, folded."""
        served, reader = self._open(request, call, unary=True)
        try:
            return await self._folded(reader, served)
        finally:
            reader.close()

    async def stream_generate(
        self, request: pb.StreamGenerateRequest, call: Call
    ) -> AsyncIterator[pb.StreamGenerateResponse]:
        """Send an answer's pieces, all that are ready in one message."""
        served, reader = self._open(request.request, call, unary=False)
        try:
            while batch := await reader.next_batch(self._response_bytes):
                deltas = [wire.to_delta(delta, served.model, joined=reader.joined) for delta in batch]
                yield pb.StreamGenerateResponse(deltas=deltas)
                # A write returns at once: two turns of the loop let what is under way join the next message.
                await asyncio.sleep(0)
                await asyncio.sleep(0)
        finally:
            reader.close()

    async def cancel_generate(self, request: pb.CancelGenerateRequest, call: Call) -> pb.CancelGenerateResponse:
        """Stop a call by its key."""
        if not 1 <= len(request.idempotency_key) <= checks.MAX_KEY_CHARACTERS:
            raise InvalidRequest(
                "the request has wrong fields",
                violations=[("idempotency_key", f"must be 1 to {checks.MAX_KEY_CHARACTERS} characters")],
            )
        canceled = await self._desk.cancel(_tenant(call), request.idempotency_key)
        return pb.CancelGenerateResponse(canceled=canceled)

    async def embed(self, request: pb.EmbedRequest, call: Call) -> pb.EmbedResponse:
        """Return vectors."""
        question = wire.from_embed_request(request)
        served, vectors = await self._desk.embed(question, call.remaining_s(self._desk.bounds.stream_s))
        return pb.EmbedResponse(
            embeddings=[pb.Embedding(values=values) for values in vectors.values],
            usage=wire.to_usage(vectors.usage, served.model.id),
            model=vectors.model or served.model.name,
        )

    async def count_tokens(self, request: pb.CountTokensRequest, call: Call) -> pb.CountTokensResponse:
        """Estimate how long a request is."""
        checks.check_messages(request.messages)
        count = await self._desk.count_tokens(request.model, wire.from_messages(request.messages))
        return pb.CountTokensResponse(input_tokens=count, estimated=True)

    async def list_models(self, request: pb.ListModelsRequest, call: Call) -> pb.ListModelsResponse:
        """Return every model."""
        return pb.ListModelsResponse(models=map(wire.to_model, self._desk.models()))

    async def get_model(self, request: pb.GetModelRequest, call: Call) -> pb.GetModelResponse:
        """Return one model."""
        return pb.GetModelResponse(model=wire.to_model(self._desk.model(request.model)))

    def _open(self, request: pb.GenerateRequest, call: Call, *, unary: bool) -> tuple[Served, Reader]:
        question = wire.from_request(request)
        served = self._desk.resolve(request.model)
        key = None
        if request.idempotency_key:
            key = JoinKey(_tenant(call), request.idempotency_key, wire.digest_of(request))
        bound = served.offer.total_timeout_s if unary else self._desk.bounds.stream_s
        return served, self._desk.ask(served, question, key, call.remaining_s(bound))

    async def _folded(self, reader: Reader, served: Served) -> pb.GenerateResponse:
        text: list[str] = []
        reasoning: list[str] = []
        calls: dict[int, list[ToolCallDelta]] = {}
        response = pb.GenerateResponse(provider=served.offer.name, joined=reader.joined)
        while batch := await reader.next_batch(self._response_bytes):
            for delta in batch:
                if isinstance(delta, TextDelta):
                    text.append(delta.text)
                elif isinstance(delta, ReasoningDelta):
                    reasoning.append(delta.text)
                elif isinstance(delta, ToolCallDelta):
                    calls.setdefault(delta.index, []).append(delta)
                elif isinstance(delta, Usage):
                    response.usage.CopyFrom(wire.to_usage(delta, served.model.id))
                elif isinstance(delta, Finish):
                    response.finish_reason = wire.to_reason(delta)
                    response.model = delta.model or served.model.name
        message = response.message
        message.role = pb.CHAT_ROLE_ASSISTANT
        if text:
            message.parts.append(types_pb2.Part(text="".join(text)))
        message.tool_calls.extend(map(_tool_use, (calls[index] for index in sorted(calls))))
        response.reasoning = "".join(reasoning)
        return response


def _tool_use(pieces: list[ToolCallDelta]) -> pb.ToolUse:
    return pb.ToolUse(
        id="".join(piece.id for piece in pieces),
        name="".join(piece.name for piece in pieces),
        arguments="".join(piece.arguments for piece in pieces),
    )


def _tenant(call: Call) -> str:
    return call.tenant or names.DEFAULT_TENANT
