"""Reads the errors of Anthropic's wire: what the API finds wrong with a request, by their type and first words."""

import re
from typing import Any

from agentmesh.kit.errors import MeshError
from agentmesh_llm.adapters import provider_errors as errors

# Not every model takes these. The API's text begins with the field that it refuses.
_FIELDS = {
    "temperature": "sampling.temperature",
    "top_p": "sampling.top_p",
    "top_k": "sampling.top_k",
    "stop_sequences": "sampling.stop",
    "max_tokens": "sampling.max_output_tokens",
    "thinking": "reasoning",
    "output_config.effort": "reasoning.effort",
    "tool_choice": "tool_choice.mode",
}
_NAMED_FIELD = re.compile(f"`?({'|'.join(map(re.escape, _FIELDS))})\\b")
_TOOL_SCHEMA = re.compile(r"tools\.(\d{1,4})\.(?:\w+\.)?input_schema\b")
_ANSWER_SCHEMA = "output_config.format"
_TOO_LARGE = re.compile(r"(image|pdf|document|file)\b.*(exceeds?|too large|too many pixels)", re.DOTALL)
_BAD_IMAGE = ("could not process image", "image does not match", "unable to download")
_FILTER_SIGNS = ("content filtering policy", "blocked by content filter")
_TOO_LONG_SIGNS = ("prompt is too long", "exceed context limit", "context window")


def event_error(error: Any) -> MeshError:
    """Make the error for one that the provider reports inside a stream, where its status can't say it any more."""
    kind = error.get("type") if isinstance(error, dict) else None
    if kind in ("invalid_request_error", "request_too_large"):
        return refusal_of(error)
    if kind in ("authentication_error", "permission_error", "billing_error"):
        return errors.credential()
    if kind == "not_found_error":
        return errors.no_such_model()
    if kind == "overloaded_error":
        return errors.overloaded_midway()
    return errors.rate_limited() if kind == "rate_limit_error" else errors.failed_midway()


def refusal_of(error: Any) -> MeshError:
    """Make the error for a request that the API finds wrong, from its error object, if there is one.

    The API has codes for none of this; its text is looked at, never passed on.
    """
    if not isinstance(error, dict):
        return errors.refused()
    text = str(error.get("message"))
    lower = text.lower()
    if any(sign in lower for sign in _TOO_LONG_SIGNS):
        return errors.context_length()
    if error.get("type") == "request_too_large":
        return errors.request_too_large()
    if any(sign in lower for sign in _FILTER_SIGNS):
        return errors.filtered()
    if _TOO_LARGE.search(lower):
        return errors.media_too_large()
    if any(sign in lower for sign in _BAD_IMAGE):
        return errors.media_refused()
    if tool := _TOOL_SCHEMA.match(text):
        return errors.schema(f"tools[{tool[1]}].parameters")
    if text.startswith(_ANSWER_SCHEMA):
        return errors.schema("response_format.schema")
    named = _NAMED_FIELD.match(text)
    return errors.refused(_FIELDS[named[1]] if named else "")
