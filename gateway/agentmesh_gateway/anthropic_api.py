"""The llm-proxy as Anthropic's clients know it."""

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as Page

from agentmesh_gateway import anthropic_problems, cache_control, llm_streams, priorities, problems
from agentmesh_gateway.answer_headers import headers_of
from agentmesh_gateway.anthropic_events import Events, message_of
from agentmesh_gateway.anthropic_messages import (
    CountTokensRequest,
    MessagesRequest,
    only_honoured,
    to_count,
    to_generate,
)
from agentmesh_gateway.json_bodies import validated
from agentmesh_gateway.llm_calls import LlmCalls
from agentmesh_gateway.upstream import Metadata
from agentmesh_gateway.vendor_pages import Vendor, request_id_of

MESSAGES = "/v1/messages"
COUNT_TOKENS = "/v1/messages/count_tokens"
ANTHROPIC = Vendor(anthropic_problems.REQUEST_ID, anthropic_problems.response_of)
_NO_STORE = {"cache-control": "no-store"}


class AnthropicApi:
    """Answers messages and counts their tokens; every refusal has Anthropic's shape."""

    def __init__(self, calls: LlmCalls) -> None:
        self._calls = calls

    def pages(self) -> list[Page]:
        """Return the routes."""
        return [
            ANTHROPIC.page(MESSAGES, "POST", self._calls, self._create),
            ANTHROPIC.page(COUNT_TOKENS, "POST", self._calls, self._count),
        ]

    async def _create(self, request: Request, metadata: Metadata) -> Response:
        tree = await self._calls.read_object(request)
        wanted = validated(MessagesRequest, only_honoured(tree))
        asked = to_generate(wanted)
        cache_control.obey(request, asked.cache)
        priorities.obey(request, tree, asked)
        if wanted.stream:
            form = Events(wanted.model, request_id_of(request))
            return await llm_streams.respond(self._calls, asked, request, metadata, form)
        answer = await self._calls.unary("Generate", asked, request, metadata)
        headers = _NO_STORE | headers_of(answer)
        return Response(orjson.dumps(message_of(answer, wanted.model)), 200, headers, media_type=problems.JSON)

    async def _count(self, request: Request, metadata: Metadata) -> Response:
        tree = await self._calls.read_object(request)
        wanted = validated(CountTokensRequest, only_honoured(tree))
        answer = await self._calls.unary("CountTokens", to_count(wanted), request, metadata)
        return Response(orjson.dumps({"input_tokens": answer.input_tokens}), 200, _NO_STORE, media_type=problems.JSON)
