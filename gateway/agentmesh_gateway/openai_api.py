"""The llm-proxy as OpenAI's clients know it."""

import asyncio
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as Page

from agentmesh_gateway import (
    cache_control,
    llm_streams,
    openai_completions,
    openai_problems,
    openai_response_problems,
    openai_responses,
    priorities,
    problems,
)
from agentmesh_gateway.answer_headers import cost_header, headers_of
from agentmesh_gateway.json_bodies import validated
from agentmesh_gateway.llm_calls import LlmCalls
from agentmesh_gateway.openai_answers import Chunks, completion_of
from agentmesh_gateway.openai_chat import ChatCompletionRequest, only_honoured, to_generate
from agentmesh_gateway.openai_completions import CompletionRequest, completions_of, to_complete
from agentmesh_gateway.openai_embeddings import EmbeddingsRequest, embeddings_of, to_embed
from agentmesh_gateway.openai_response_answers import response_of
from agentmesh_gateway.openai_response_events import ResponseEvents
from agentmesh_gateway.openai_responses import ResponsesRequest
from agentmesh_gateway.rerank import RerankRequest, results_of, to_rerank
from agentmesh_gateway.upstream import Metadata
from agentmesh_gateway.vendor_pages import Vendor

CHAT_COMPLETIONS = "/v1/chat/completions"
RESPONSES = "/v1/responses"
EMBEDDINGS = "/v1/embeddings"
COMPLETIONS = "/v1/completions"
RERANK = "/v1/rerank"

_NO_STORE = {"cache-control": "no-store"}
OPENAI = Vendor(openai_problems.REQUEST_ID, openai_problems.response_of)
_OPENAI_RESPONSES = Vendor(openai_problems.REQUEST_ID, openai_response_problems.response_of)


class OpenAiApi:
    """Answers chat completions, completions, responses, embeddings and reranks; every refusal has OpenAI's shape."""

    def __init__(self, calls: LlmCalls) -> None:
        self._calls = calls

    def pages(self) -> list[Page]:
        """Return the routes."""
        return [
            OPENAI.page(CHAT_COMPLETIONS, "POST", self._calls, self._chat),
            _OPENAI_RESPONSES.page(RESPONSES, "POST", self._calls, self._respond),
            OPENAI.page(EMBEDDINGS, "POST", self._calls, self._embed),
            OPENAI.page(COMPLETIONS, "POST", self._calls, self._complete),
            OPENAI.page(RERANK, "POST", self._calls, self._rerank),
        ]

    async def _chat(self, request: Request, metadata: Metadata) -> Response:
        tree = await self._calls.read_object(request)
        wanted = validated(ChatCompletionRequest, only_honoured(tree))
        asked = to_generate(wanted)
        cache_control.obey(request, asked.cache)
        priorities.obey(request, tree, asked)
        if wanted.stream:
            form = Chunks(wanted.model, include_usage=wanted.include_usage, logprobs=bool(wanted.logprobs))
            return await llm_streams.respond(self._calls, asked, request, metadata, form)
        answer = await self._calls.unary("Generate", asked, request, metadata)
        return _json(completion_of(answer, wanted.model), headers_of(answer))

    async def _respond(self, request: Request, metadata: Metadata) -> Response:
        tree = await self._calls.read_object(request)
        wanted = validated(ResponsesRequest, openai_responses.only_honoured(tree))
        asked = openai_responses.to_generate(wanted)
        cache_control.obey(request, asked.cache)
        priorities.obey(request, tree, asked)
        if wanted.stream:
            return await llm_streams.respond(self._calls, asked, request, metadata, ResponseEvents(wanted))
        answer = await self._calls.unary("Generate", asked, request, metadata)
        return _json(response_of(answer, wanted), headers_of(answer))

    async def _embed(self, request: Request, metadata: Metadata) -> Response:
        wanted = validated(EmbeddingsRequest, await self._calls.read_object(request))
        asked = to_embed(wanted)
        cache_control.obey(request, asked.cache)
        answer = await self._calls.unary("Embed", asked, request, metadata)
        headers = _NO_STORE | cost_header(answer.usage)
        # Megabytes of numbers would hold up every stream of the process.
        written = await asyncio.to_thread(lambda: orjson.dumps(embeddings_of(answer, wanted)))
        return Response(written, media_type=problems.JSON, headers=headers)

    async def _complete(self, request: Request, metadata: Metadata) -> Response:
        tree = await self._calls.read_object(request)
        wanted = validated(CompletionRequest, openai_completions.only_honoured(tree))
        asked = to_complete(wanted)
        cache_control.obey(request, asked.cache)
        answer = await self._calls.unary("CompletePrompts", asked, request, metadata)
        return _json(completions_of(answer, wanted), cost_header(answer.usage))

    async def _rerank(self, request: Request, metadata: Metadata) -> Response:
        wanted = validated(RerankRequest, await self._calls.read_object(request))
        asked = to_rerank(wanted)
        cache_control.obey(request, asked.cache)
        answer = await self._calls.unary("Rerank", asked, request, metadata)
        return _json(results_of(answer, wanted), cost_header(answer.usage))


def _json(value: Any, headers: Mapping[str, str] = MappingProxyType({})) -> Response:
    return Response(orjson.dumps(value), media_type=problems.JSON, headers={**_NO_STORE, **headers})
