"""Reads how much an Anthropic client wants a model to think, and where it wants the provider's cache to end."""

from collections.abc import Sequence
from typing import Annotated, Literal

from google.protobuf.duration_pb2 import Duration
from pydantic import Field

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh_gateway.vendor_fields import Given, Violations

_INT32_MAX = 2**31 - 1
_TTL_S = {"5m": 300, "1h": 3600}
_MODES = {
    "enabled": pb.Reasoning.MODE_ON,
    "adaptive": pb.Reasoning.MODE_ON,
    "disabled": pb.Reasoning.MODE_OFF,
}
_SHOWN = {"summarized": True, "omitted": False}


class Thinking(Given):
    """Whether the model thinks, for how many tokens, and whether that is told."""

    type: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: Annotated[int, Field(ge=1, le=_INT32_MAX)] | None = None
    display: Literal["summarized", "omitted"] | None = None


Effort = Literal["low", "medium", "high", "xhigh", "max"]


class CacheControl(Given):
    """A mark for the provider's cache."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


def set_reasoning(
    asked: pb.GenerateRequest, thinking: Thinking | None, effort: Effort | None, violations: Violations
) -> None:
    """Write how much the model is to think; nothing if the client doesn't say."""
    if thinking is None and effort is None:
        return
    # To these clients effort is that of all that is written, with thinking or without.
    reasoning = pb.Reasoning(mode=_MODES[thinking.type] if thinking is not None else pb.Reasoning.MODE_HABIT)
    if effort is not None:
        reasoning.effort = pb.Reasoning.Effort.Value(f"EFFORT_{effort.upper()}")
    if thinking is not None:
        reasoning.max_tokens = thinking.budget_tokens or 0
        if thinking.display is not None:
            reasoning.shown = _SHOWN[thinking.display]
        if (thinking.type == "enabled") != (thinking.budget_tokens is not None):
            violations.append(("thinking.budget_tokens", "is needed for enabled, and for nothing else"))
    asked.reasoning.CopyFrom(reasoning)


def mark_of(control: CacheControl, part: int = 0) -> pb.CacheBreakpoint:
    """Return the end for the provider's cache after a part."""
    ttl = Duration(seconds=_TTL_S[control.ttl]) if control.ttl is not None else None
    return pb.CacheBreakpoint(part=part, ttl=ttl)


def mark_end(messages: Sequence[pb.ChatMessage], control: CacheControl) -> None:
    """Mark the end of a conversation, unless it is marked already."""
    last = messages[-1]
    end = _last_place(last)
    if all(mark.part != end for mark in last.cache_breakpoints):
        last.cache_breakpoints.append(mark_of(control, end))


def mark_here(message: pb.ChatMessage, control: CacheControl) -> None:
    """Mark a message after what it holds so far; what holds nothing yet has no place for a mark."""
    if message.parts or message.tool_calls:
        message.cache_breakpoints.append(mark_of(control, _last_place(message)))


def _last_place(message: pb.ChatMessage) -> int:
    return len(message.parts) if message.tool_calls else max(0, len(message.parts) - 1)
