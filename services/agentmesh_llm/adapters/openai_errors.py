"""Reads the errors of OpenAI's wire: what a server finds wrong with a request, in its words or by its codes."""

import re
from typing import Any

from agentmesh.kit.errors import MeshError
from agentmesh_llm.adapters import provider_errors as errors

_TOO_LONG_CODES = ("context_length_exceeded", "exceed_context_size_error")
# Servers other than OpenAI's have no code for it; their text is looked at, never passed on.
_TOO_LONG_SIGNS = ("context length", "context window", "context size", "prompt is too long", "context_size")
_FILTER_CODES = (
    "content_filter",
    "content_policy_violation",
    "image_content_policy_violation",
    "moderation_blocked",
    "invalid_prompt",
)
_TOO_LARGE_CODES = ("image_too_large", "image_file_too_large")
_BAD_IMAGE_CODES = (
    "invalid_image",
    "invalid_image_format",
    "invalid_base64_image",
    "invalid_image_url",
    "image_parse_error",
    "image_too_small",
    "unsupported_image_media_type",
    "empty_image_file",
    "failed_to_download_image",
)
_SCHEMA_CODES = ("invalid_function_parameters", "invalid_json_schema")
_TOOL_PATH = re.compile(r"tools\[(\d{1,4})\]\.function\.parameters")
# What servers call the fields that not every model takes.
_FIELDS = {
    "temperature": "sampling.temperature",
    "top_p": "sampling.top_p",
    "top_k": "sampling.top_k",
    "seed": "sampling.seed",
    "stop": "sampling.stop",
    "max_tokens": "sampling.max_output_tokens",
    "max_completion_tokens": "sampling.max_output_tokens",
    "frequency_penalty": "sampling.frequency_penalty",
    "presence_penalty": "sampling.presence_penalty",
    "logprobs": "top_logprobs",
    "top_logprobs": "top_logprobs",
    "reasoning_effort": "reasoning.effort",
    "parallel_tool_calls": "parallel_tool_calls",
    "tools": "tools",
    "tool_choice": "tool_choice.mode",
    "response_format": "response_format",
}


def event_error(error: Any) -> MeshError:
    """Make the error for one that the provider reports inside a stream."""
    return _known(error) or errors.failed_midway()


def refusal_of(error: Any) -> MeshError:
    """Make the error for a request that the provider finds wrong, from its error object, if there is one."""
    if found := _known(error):
        return found
    param = error.get("param") if isinstance(error, dict) else None
    return errors.refused(_FIELDS.get(param, "") if isinstance(param, str) else "")


def _known(error: Any) -> MeshError | None:
    if not isinstance(error, dict):
        return None
    code, text = str(error.get("code")), f"{error.get('type')} {error.get('message')}".lower()
    if code in _TOO_LONG_CODES or any(sign in text for sign in _TOO_LONG_SIGNS):
        return errors.context_length()
    if code in _FILTER_CODES:
        return errors.filtered()
    if code in _TOO_LARGE_CODES:
        return errors.media_too_large()
    if code in _BAD_IMAGE_CODES:
        return errors.media_refused()
    if code in _SCHEMA_CODES:
        tool = _TOOL_PATH.match(str(error.get("param")))
        return errors.schema(f"tools[{tool[1]}].parameters" if tool else _schema_field(error.get("param")))
    return None


def _schema_field(param: Any) -> str:
    return "tools" if str(param).startswith("tools") else "response_format.schema"
