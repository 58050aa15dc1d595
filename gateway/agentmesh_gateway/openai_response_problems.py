"""Errors as clients of OpenAI's Responses API read them: its own names for what is wrong."""

import re
from typing import Any

from starlette.responses import Response

from agentmesh.kit.errors import InvalidRequest, MeshError
from agentmesh_gateway import llm_problems, openai_problems

# The llm-proxy names fields by the contract's paths, whose messages are not numbered as the items are.
_NAMES = (
    (re.compile(r"^messages\b.*$"), "input"),
    (re.compile(r"^sampling\."), ""),
    (re.compile(r"^response_format\b"), "text.format"),
    (re.compile(r"^tool_choice\.mode$"), "tool_choice"),
)


def body_of(error: MeshError) -> dict[str, Any]:
    """Return the object that tells an error."""
    return openai_problems.body_of(error, named)


def response_of(error: MeshError, request_id: str) -> Response:
    """Write an error as a response."""
    return openai_problems.response_of(error, request_id, named)


def failure_of(error: MeshError) -> str:
    """Return which of the API's few codes says why a response failed."""
    if llm_problems.status_of(error) == 429:
        return "rate_limit_exceeded"
    return "invalid_prompt" if isinstance(error, InvalidRequest) else "server_error"


def named(field: str) -> str:
    """Return the API's name for a field of the contract."""
    for pattern, name in _NAMES:
        field = pattern.sub(name, field)
    return field
