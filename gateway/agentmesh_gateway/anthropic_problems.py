"""Errors as Anthropic's clients read them."""

import re
from collections.abc import Mapping
from typing import Any

import orjson
from starlette.responses import Response

from agentmesh.kit.errors import MeshError
from agentmesh_gateway import llm_problems, problems

REQUEST_ID = "request-id"

_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
# The llm-proxy names fields by the contract's paths, whose messages are not numbered as Anthropic's are.
_NAMES = (
    (re.compile(r"^messages\[\d+\]\.(parts|role|tool_call).*$"), "messages"),
    (re.compile(r"^sampling\.max_output_tokens$"), "max_tokens"),
    (re.compile(r"^sampling\.stop$"), "stop_sequences"),
    (re.compile(r"^reasoning\.max_tokens$"), "thinking.budget_tokens"),
    (re.compile(r"^reasoning\.effort$"), "output_config.effort"),
    (re.compile(r"^reasoning(\.mode)?$"), "thinking"),
    (re.compile(r"^tool_choice\.(mode|name)$"), "tool_choice"),
    (re.compile(r"^parallel_tool_calls$"), "tool_choice.disable_parallel_tool_use"),
    (re.compile(r"^response_format\b"), "output_config.format"),
    (re.compile(r"^(tools\[\d+\])\.parameters\b"), r"\1.input_schema"),
    (re.compile(r"^sampling\."), ""),
    (re.compile(r"\[(\d+)\]"), r".\1"),
)
# Clients that shorten a conversation by themselves look for these words.
_TOO_LONG = "prompt is too long for the model"


def body_of(error: MeshError, request_id: str) -> dict[str, Any]:
    """Return the object that tells an error."""
    status = llm_problems.status_of(error)
    kind = _TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": _text_of(error)}, "request_id": request_id}


def response_of(error: MeshError, request_id: str) -> Response:
    """Write an error as a response."""
    headers = llm_problems.headers_of(error) | {REQUEST_ID: request_id}
    body = orjson.dumps(body_of(error, request_id))
    return Response(body, llm_problems.status_of(error), headers, media_type=problems.JSON)


def _text_of(error: MeshError) -> str:
    if error.reason == "CONTEXT_LENGTH":
        return _TOO_LONG
    if not error.violations:
        return error.message
    field, description = error.violations[0]
    for pattern, name in _NAMES:
        field = pattern.sub(name, field)
    return f"{field}: {description}" if field else description
