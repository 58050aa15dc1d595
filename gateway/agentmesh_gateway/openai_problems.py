"""Errors as OpenAI's clients read them."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import orjson
from starlette.responses import Response

from agentmesh.kit import names
from agentmesh.kit.errors import MeshError
from agentmesh_gateway import llm_problems, problems

REQUEST_ID = "x-request-id"

_NO_BUDGET = "insufficient_quota"
_CODES: Mapping[str, str] = {
    names.BUDGET_EXHAUSTED: _NO_BUDGET,
    "CONTEXT_LENGTH": "context_length_exceeded",
    "MODEL_NOT_FOUND": "model_not_found",
    "UNAUTHENTICATED": "invalid_api_key",
    "INVALID_REQUEST": "invalid_value",
    "UNSUPPORTED_FIELD": "unsupported_parameter",
    "MEDIA_TOO_LARGE": "image_too_large",
    "INVALID_TOOL_SCHEMA": "invalid_function_parameters",
    "INVALID_RESPONSE_SCHEMA": "invalid_json_schema",
}
_OF_MESSAGES = ("CONTEXT_LENGTH", "CONTENT_FILTER")
# The llm-proxy names fields by the contract's paths.
_NAMES = (
    (re.compile(r"^sampling\.max_output_tokens$"), "max_tokens"),
    (re.compile(r"^sampling\."), ""),
    (re.compile(r"^inputs\b"), "input"),
    (re.compile(r"^prompts\b"), "prompt"),
    (re.compile(r"\.parts\b"), ".content"),
    (re.compile(r"^(tools\[\d+\])\.(\w+)"), r"\1.function.\2"),
    (re.compile(r"^tool_choice\.name$"), "tool_choice.function.name"),
    (re.compile(r"^tool_choice\.mode$"), "tool_choice"),
    (re.compile(r"^reasoning(\.\w+)?$"), "reasoning_effort"),
    (re.compile(r"^response_format\.schema\b"), "response_format.json_schema.schema"),
)


def renamed(field: str) -> str:
    """Return the name that a field of the contract has in chat completions and embeddings."""
    for pattern, name in _NAMES:
        field = pattern.sub(name, field)
    return field


def body_of(error: MeshError, named: Callable[[str], str] = renamed) -> dict[str, Any]:
    """Return the object that tells an error; `named` turns the contract's path of a field into the vendor's."""
    status = llm_problems.status_of(error)
    code = _CODES.get(error.reason, "rate_limit_exceeded" if status == 429 else error.reason.lower())
    return {
        "error": {
            "message": llm_problems.text_of(error, named),
            "type": _NO_BUDGET if code == _NO_BUDGET else _type_of(status),
            "param": _param_of(error, named),
            "code": code,
        }
    }


def response_of(error: MeshError, request_id: str, named: Callable[[str], str] = renamed) -> Response:
    """Write an error as a response."""
    headers = llm_problems.headers_of(error) | {REQUEST_ID: request_id}
    body = orjson.dumps(body_of(error, named))
    return Response(body, llm_problems.status_of(error), headers, media_type=problems.JSON)


def _type_of(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    if status == 403:
        return "permission_error"
    return "server_error" if status >= 500 else "invalid_request_error"


def _param_of(error: MeshError, named: Callable[[str], str]) -> str | None:
    if error.violations:
        return named(error.violations[0][0]) or None
    if error.reason in _OF_MESSAGES:
        return named("messages")
    return "model" if error.reason == "MODEL_NOT_FOUND" else None
