"""What OpenAPI says of the routes that OpenAI's and Anthropic's clients call: the models that read their bodies."""

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from agentmesh_gateway import anthropic_api, model_lists, openai_api, problems, sse
from agentmesh_gateway.anthropic_messages import CountTokensRequest, MessagesRequest
from agentmesh_gateway.openai_chat import ChatCompletionRequest
from agentmesh_gateway.openai_completions import CompletionRequest
from agentmesh_gateway.openai_embeddings import EmbeddingsRequest
from agentmesh_gateway.openai_responses import ResponsesRequest
from agentmesh_gateway.rerank import RerankRequest

_REQUESTS: dict[str, tuple[str, str, type[BaseModel], bool]] = {
    openai_api.CHAT_COMPLETIONS: ("OpenAI", "Answer a conversation", ChatCompletionRequest, True),
    openai_api.RESPONSES: ("OpenAI", "Answer a conversation, in the form of responses", ResponsesRequest, True),
    openai_api.EMBEDDINGS: ("OpenAI", "Turn texts into vectors", EmbeddingsRequest, False),
    openai_api.COMPLETIONS: ("OpenAI", "Go on with texts", CompletionRequest, False),
    openai_api.RERANK: ("OpenAI", "Order documents by how well they fit a query", RerankRequest, False),
    anthropic_api.MESSAGES: ("Anthropic", "Answer a conversation", MessagesRequest, True),
    anthropic_api.COUNT_TOKENS: ("Anthropic", "Estimate the tokens of a conversation", CountTokensRequest, False),
}
_PLACE = "#/components/schemas/"
_MODELS = {
    model_lists.MODELS: "List the models, in Anthropic's form for its clients",
    model_lists.MODEL.replace(":path", ""): "Get a model, in Anthropic's form for its clients",
}


def model_paths() -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Return the path items, and the schemas that they refer to by name."""
    wanted = [(model, "validation") for _, _, model, _ in _REQUESTS.values()]
    references, found = models_json_schema(wanted, ref_template=_PLACE + "{model}")  # type: ignore[arg-type]
    paths: dict[str, dict[str, Any]] = {}
    for path, (tag, summary, model, streams) in _REQUESTS.items():
        operation = _operation(tag, summary, streams=streams)
        body = {"schema": references[model, "validation"]}
        operation["requestBody"] = {"required": True, "content": {problems.JSON: body}}
        paths[path] = {"post": operation}
    for path, summary in _MODELS.items():
        operation = _operation("OpenAI", summary, streams=False)
        if "{" in path:
            operation["parameters"] = [{"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}]
        paths[path] = {"get": operation}
    return paths, found["$defs"]


def _operation(tag: str, summary: str, *, streams: bool) -> dict[str, Any]:
    anything: dict[str, Any] = {"schema": {"type": "object"}}
    content = {problems.JSON: anything}
    if streams:
        content[sse.EVENT_STREAM] = {"schema": {"type": "string"}}
    answers = {"200": {"description": "The answer.", "content": content}}
    failed = {"description": f"What went wrong, in {tag}'s shape.", "content": {problems.JSON: anything}}
    return {"tags": [tag], "summary": summary, "responses": answers | {"default": failed}}
