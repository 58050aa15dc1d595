"""What Anthropic's API refuses about a request, as far as the fake one has to know it."""

from collections.abc import Mapping
from typing import Any

SIGNATURE = "c2ln"
REDACTED = "c2VjcmV0"
_FIELDS = {
    *("model", "messages", "max_tokens", "stream", "system", "tools", "tool_choice", "thinking", "output_config"),
    *("stop_sequences", "temperature", "top_p", "top_k", "metadata"),
}
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_MAX_MARKS = 4
_BLOCKS = {
    "user": ("text", "image", "document", "tool_result"),
    "assistant": ("text", "thinking", "redacted_thinking", "tool_use"),
}


def fault_of(body: dict[str, Any], headers: Mapping[str, str]) -> str:
    """Return what the API would refuse about a request, empty if nothing."""
    known = {name.lower() for name in headers}
    if "anthropic-version" not in known or not known & {"x-api-key", "authorization"}:
        return "anthropic-version and a credential are needed"
    if unknown := body.keys() - _FIELDS:
        return f"{min(unknown)}: Extra inputs are not permitted"
    if fault := _thinking_fault(body) or _mark_fault(body):
        return fault
    if type(body.get("max_tokens")) is not int or body["max_tokens"] < 1:
        return "max_tokens: Field required"
    if not body["messages"] or body["messages"][0]["role"] != "user":
        return "messages: first message must use the user role"
    waiting: set[str] = set()
    for message in body["messages"]:
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not blocks or any(block["type"] not in _BLOCKS[message["role"]] for block in blocks):
            return "messages: a turn is empty, or holds a block that it can't hold"
        if any(block["type"] == "text" and not block["text"].strip() for block in blocks):
            return "messages: text content blocks must contain non-whitespace text"
        answered = {block["tool_use_id"] for block in blocks if block["type"] == "tool_result"}
        if answered != waiting or any(block["type"] != "tool_result" for block in blocks[: len(answered)]):
            return "messages: tool_use ids need tool_result blocks at the start of the next turn"
        waiting = {block["id"] for block in blocks if block["type"] == "tool_use"}
        if not all(isinstance(block["input"], dict) for block in blocks if block["type"] == "tool_use"):
            return "messages: tool_use.input: Input should be an object"
    if any(tool["input_schema"].get("type") != "object" for tool in body.get("tools", ())):
        return "tools.0.input_schema.type: Field required"
    return ""


def _thinking_fault(body: dict[str, Any]) -> str:
    thinking, effort = body.get("thinking", {"type": "disabled"}), body.get("output_config", {}).get("effort")
    if effort is not None and effort not in _EFFORTS:
        return "output_config.effort: Input should be 'low', 'medium', 'high', 'xhigh' or 'max'"
    for message in body["messages"]:
        for block in message["content"] if isinstance(message["content"], list) else ():
            told = (block.get("signature", SIGNATURE), block.get("data", REDACTED))
            if block["type"].endswith("thinking") and told != (SIGNATURE, REDACTED):
                return "messages.1.content.0: Invalid `signature` in `thinking` block"
    if thinking["type"] == "disabled":
        return ""
    if thinking["type"] == "enabled" and not 1024 <= thinking["budget_tokens"] < body["max_tokens"]:
        return "`max_tokens` must be greater than `thinking.budget_tokens`"
    if body.get("temperature", 1) != 1:
        return "`temperature` may only be set to 1 when thinking is enabled"
    if "top_k" in body:
        return "`top_k` must be unset when thinking is enabled"
    if body.get("tool_choice", {}).get("type") in ("any", "tool"):
        return "Thinking may not be enabled when tool_choice forces tool use."
    last = [message["content"] for message in body["messages"] if message["role"] == "assistant"][-1:]
    kinds = [block["type"] for content in last for block in content if isinstance(block, dict)]
    if thinking["type"] == "enabled" and "tool_use" in kinds and not kinds[0].endswith("thinking"):
        return "messages.1.content.0.type: Expected `thinking` or `redacted_thinking`, but found `tool_use`"
    return ""


def marks_of(value: Any) -> list[dict[str, Any]]:
    """Return every cache_control of a body, wherever it is, in no order."""
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    own = [value["cache_control"]] if isinstance(value, dict) and "cache_control" in value else []
    return own + [mark for child in children for mark in marks_of(child)]


def _mark_fault(body: dict[str, Any]) -> str:
    marks = marks_of(body)
    if len(marks) > _MAX_MARKS:
        return "A maximum of 4 blocks with cache_control may be provided."
    if any(mark["type"] != "ephemeral" or mark.get("ttl", "5m") not in ("5m", "1h") for mark in marks):
        return "cache_control: Input should be ephemeral, for 5m or 1h"
    return ""
