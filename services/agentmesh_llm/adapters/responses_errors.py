"""Reads the errors of OpenAI's Responses API, which are those of its other wire under other names of fields."""

import re
from typing import Any

from agentmesh.kit.errors import MeshError
from agentmesh_llm.adapters import openai_errors
from agentmesh_llm.adapters import provider_errors as errors

_LIMITED = ("rate_limit_exceeded", "too_many_requests", "rate_limit_error")
_NAMES = (
    (re.compile(r"^(tools\[\d{1,4}\])\.parameters"), r"\1.function.parameters"),
    (re.compile(r"^text\.format\b.*$"), "response_format"),
    (re.compile(r"^reasoning(\.effort)?$"), "reasoning_effort"),
    (re.compile(r"^max_output_tokens$"), "max_tokens"),
)


def event_error(error: Any) -> MeshError:
    """Make the error for one that the provider reports inside a stream, where its status can't say it any more."""
    if isinstance(error, dict) and str(error.get("code") or error.get("type")) in _LIMITED:
        return errors.rate_limited()
    return openai_errors.event_error(_renamed(error))


def refusal_of(error: Any) -> MeshError:
    """Make the error for a request that the API finds wrong, from its error object, if there is one."""
    return openai_errors.refusal_of(_renamed(error))


def _renamed(error: Any) -> Any:
    if not isinstance(error, dict) or not isinstance(param := error.get("param"), str):
        return error
    for pattern, name in _NAMES:
        param = pattern.sub(name, param)
    return {**error, "param": param}
