"""Writes questions as Anthropic's messages and reads their events, apart from how the bytes travel."""

import re
from dataclasses import dataclass
from typing import Any

import orjson

from agentmesh.kit.errors import InvalidRequest, MeshError
from agentmesh_llm.adapters import anthropic_turns
from agentmesh_llm.adapters import provider_errors as errors
from agentmesh_llm.adapters.json_values import count_of, model_of, text_of
from agentmesh_llm.domain import (
    Delta,
    Finish,
    FinishReason,
    Question,
    ReasoningDelta,
    ResponseFormat,
    Sampling,
    TextDelta,
    Tool,
    ToolCallDelta,
    ToolMode,
    Usage,
)

# The API demands a bound. No current model writes less, and nobody is charged for what is not written.
DEFAULT_MAX_TOKENS = 32_000
_MAX_TEMPERATURE = 1.0

_CHOICES = {ToolMode.AUTO: "auto", ToolMode.NONE: "none", ToolMode.REQUIRED: "any"}
_REASONS = {
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "tool_use": FinishReason.TOOL_CALLS,
    "refusal": FinishReason.CONTENT_FILTER,
}
_COUNTS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
# Not every model takes these. The API's text begins with the field that it refuses.
_FIELDS = {"temperature": "sampling.temperature", "top_p": "sampling.top_p", "tool_choice": "tool_choice.mode"}
_NAMED_FIELD = re.compile(f"`?({'|'.join(_FIELDS)})\\b")
_HOLD_SCHEMAS = {"items", "prefixItems", "anyOf", "allOf", "oneOf"}
_HOLD_NAMED_SCHEMAS = {"properties", "$defs", "definitions"}
_JSON_ONLY = "Answer with one JSON object and nothing else: no fence around it, no word before or after it."


def question_body(question: Question) -> bytes:
    """Write a question as the body of a streaming message; raise InvalidRequest for what the API has no form for.

    A strict schema is enforced by the API. It knows no other way to force JSON on all of its models, so without
    `strict`, or without a schema, the model is only told.
    """
    body: dict[str, Any] = {
        "model": question.model,
        "max_tokens": question.sampling.max_output_tokens or DEFAULT_MAX_TOKENS,
        "messages": anthropic_turns.turns(question.messages),
        "stream": True,
    }
    system = anthropic_turns.instructions(question.messages)
    if (wanted := question.response_format) is not None:
        if wanted.strict and wanted.schema is not None:
            body["output_config"] = {"format": {"type": "json_schema", "schema": _closed(wanted.schema)}}
        else:
            system = "\n\n".join(filter(None, (system, _told(wanted))))
    if system:
        body["system"] = system
    if question.tools:
        body["tools"] = [_tool(tool) for tool in question.tools]
        body["tool_choice"] = (
            {"type": "tool", "name": question.tool_name}
            if question.tool_mode is ToolMode.NAMED
            else {"type": _CHOICES[question.tool_mode]}
        )
    return orjson.dumps({**body, **_steering(question.sampling)})


class EventReader:
    """Turns the events of one answer into deltas and knows, in the end, whether it was whole."""

    def __init__(self) -> None:
        self.whole = False
        self._model = ""
        self._reason: FinishReason | None = None
        self._counts = dict.fromkeys(_COUNTS, 0)
        self._calls: dict[int, _Call] = {}

    def read(self, data: bytes) -> list[Delta]:
        """Return the deltas of one event; raise the error that it reports, or Unavailable if it is no event."""
        try:
            event = orjson.loads(data)
            kind = event.get("type")
            if kind == "message_start":
                self._model = model_of(event["message"].get("model"))
                self._count(event["message"].get("usage"))
            elif kind == "content_block_start":
                return self._start(event["index"], event["content_block"])
            elif kind == "content_block_delta":
                return self._piece(event["index"], event["delta"])
            elif kind == "content_block_stop":
                return self._stop(event["index"])
            elif kind == "message_delta":
                if (reason := event["delta"].get("stop_reason")) is not None:
                    self._reason = _REASONS.get(text_of(reason), FinishReason.UNKNOWN)
                self._count(event.get("usage"))
            elif kind == "message_stop":
                self.whole = True
            elif kind == "error":
                raise error_event(event.get("error"))
            # Others are pings, or younger than this code; the API's rule is to skip them.
            return []
        except (AttributeError, KeyError, TypeError, ValueError):
            raise errors.garbage() from None

    def finish(self) -> list[Delta]:
        """Return the end of the answer, when its marker has come; raise Unavailable if no reason came before."""
        if self._reason is None:
            raise errors.interrupted()
        fresh, written, cached, output = (self._counts[name] for name in _COUNTS)
        return [Usage(fresh + written + cached, output, cached), Finish(self._reason, self._model)]

    def _start(self, index: int, block: dict[str, Any]) -> list[Delta]:
        kind = block.get("type")
        if kind == "tool_use":
            call = self._calls[index] = _Call(len(self._calls), block.get("input") or {})
            return [ToolCallDelta(call.number, text_of(block["id"]), text_of(block["name"]))]
        if kind == "text":
            return _written(TextDelta(text_of(block.get("text") or "")))
        return _written(ReasoningDelta(text_of(block.get("thinking") or ""))) if kind == "thinking" else []

    def _piece(self, index: int, delta: dict[str, Any]) -> list[Delta]:
        kind = delta.get("type")
        if kind == "text_delta":
            return _written(TextDelta(text_of(delta["text"])))
        if kind == "thinking_delta":
            return _written(ReasoningDelta(text_of(delta["thinking"])))
        # The calls of tools that run at the provider come in the same pieces, and are none of ours.
        if (
            kind == "input_json_delta"
            and (call := self._calls.get(index))
            and (piece := text_of(delta["partial_json"]))
        ):
            call.whole_input = None
            return [ToolCallDelta(call.number, arguments=piece)]
        return []

    def _stop(self, index: int) -> list[Delta]:
        call = self._calls.get(index)
        if call is None or call.whole_input is None:
            return []
        # Without arguments no piece comes, but a caller wants JSON.
        return [ToolCallDelta(call.number, arguments=orjson.dumps(call.whole_input).decode())]

    def _count(self, usage: Any) -> None:
        # Every event tells the counts up to then, and may leave some out.
        for name in _COUNTS if isinstance(usage, dict) else ():
            self._counts[name] = max(self._counts[name], count_of(usage.get(name)))


@dataclass(slots=True)
class _Call:
    """A tool call by its number among the calls; `whole_input` is its input as long as no piece of it came."""

    number: int
    whole_input: dict[str, Any] | None


def error_event(error: Any) -> MeshError:
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
    """Make the error for a request that the API finds wrong, from its error object, if there is one."""
    if is_context_length(error):
        return errors.context_length()
    named = _NAMED_FIELD.match(str(error.get("message"))) if isinstance(error, dict) else None
    return errors.refused(_FIELDS[named[1]] if named else "")


def is_context_length(error: Any) -> bool:
    """Return whether an error object says that the conversation is too long, in tokens or in bytes."""
    if not isinstance(error, dict):
        return False
    # The API has no code for it; its text is looked at, never passed on.
    text = str(error.get("message")).lower()
    return error.get("type") == "request_too_large" or any(
        sign in text for sign in ("prompt is too long", "exceed context limit", "context window")
    )


def _written(delta: TextDelta | ReasoningDelta) -> list[Delta]:
    return [delta] if delta.text else []


def _tool(tool: Tool) -> dict[str, Any]:
    described = {"description": tool.description} if tool.description else {}
    return {"name": tool.name, **described, "input_schema": {"type": "object", **tool.parameters}}


def _steering(sampling: Sampling) -> dict[str, Any]:
    """Write what steers the writing. The API has no seed: it is only ever a wish, and goes unfulfilled here."""
    if sampling.temperature is not None and sampling.temperature > _MAX_TEMPERATURE:
        text = f"must be from 0 to {_MAX_TEMPERATURE:g} for this provider"
        raise InvalidRequest("this provider's temperature ends at 1", violations=[("sampling.temperature", text)])
    optional = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "stop_sequences": list(sampling.stop) or None,
    }
    return {key: value for key, value in optional.items() if value is not None}


def _told(wanted: ResponseFormat) -> str:
    if wanted.schema is None:
        return _JSON_ONLY
    return f"{_JSON_ONLY} It fits this JSON Schema: {orjson.dumps(wanted.schema).decode()}"


def _closed(schema: Any) -> Any:
    """Close every object that says what it holds, as the API demands; what fits the closed schema fits the open one."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = dict(schema)
    for keyword in _HOLD_SCHEMAS & closed.keys():
        closed[keyword] = _closed(closed[keyword])
    for keyword in _HOLD_NAMED_SCHEMAS & closed.keys():
        if isinstance(named := closed[keyword], dict):
            closed[keyword] = {name: _closed(item) for name, item in named.items()}
    if closed.get("properties"):
        closed.setdefault("additionalProperties", False)
    return closed
