"""Writes questions as Anthropic's messages and reads their events, apart from how the bytes travel."""

from dataclasses import dataclass
from typing import Any

import orjson

from agentmesh_llm.adapters import anthropic_errors, anthropic_schemas, anthropic_turns
from agentmesh_llm.adapters import provider_errors as errors
from agentmesh_llm.adapters.anthropic_steering import steering, tool_choice
from agentmesh_llm.adapters.json_values import count_of, model_of, text_of
from agentmesh_llm.domain import (
    Delta,
    Finish,
    FinishReason,
    Question,
    ReasoningDelta,
    TextDelta,
    Thought,
    ToolCallDelta,
    Usage,
)

_REASONS = {
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "tool_use": FinishReason.TOOL_CALLS,
    "refusal": FinishReason.CONTENT_FILTER,
}
_COUNTS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
_THINKING = "thinking_tokens"


def question_body(question: Question) -> bytes:
    """Write a question as the body of a streaming message; raise InvalidRequest for what the API has no form for.

    A strict schema is enforced by the API. It knows no other way to force JSON on all of its models, so without
    `strict`, or without a schema, the model is only told.
    """
    wanted = question.response_format
    enforced = wanted.schema if wanted is not None and wanted.strict else None
    told = "" if wanted is None or enforced is not None else anthropic_schemas.told(wanted.schema)
    body: dict[str, Any] = {
        "model": question.model,
        "messages": anthropic_turns.turns(question.messages),
        "stream": True,
        **steering(question, enforced),
    }
    if system := anthropic_turns.instructions(question.messages, told):
        body["system"] = system
    if question.tools:
        body["tools"] = [anthropic_schemas.tool(tool) for tool in question.tools]
        body["tool_choice"] = tool_choice(question)
    return orjson.dumps(body)


class EventReader:
    """Turns the events of one answer into deltas and knows, in the end, whether it was whole."""

    def __init__(self) -> None:
        self.whole = False
        self._model = ""
        self._reason: FinishReason | None = None
        self._counts = dict.fromkeys((*_COUNTS, _THINKING), 0)
        self._calls: dict[int, _Call] = {}
        self._thoughts: dict[int, Thought] = {}  # that have begun

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
                raise anthropic_errors.event_error(event.get("error"))
            # Others are pings, or younger than this code; the API's rule is to skip them.
            return []
        except (AttributeError, KeyError, TypeError, ValueError):
            raise errors.garbage() from None

    def finish(self) -> list[Delta]:
        """Return the end of the answer, when its marker has come; raise Unavailable if no reason came before."""
        if self._reason is None:
            raise errors.interrupted()
        fresh, written, cached, output = (self._counts[name] for name in _COUNTS)
        usage = Usage(fresh + written + cached, output, cached, written, self._counts[_THINKING])
        return [usage, Finish(self._reason, self._model)]

    def _start(self, index: int, block: dict[str, Any]) -> list[Delta]:
        kind = block.get("type")
        if kind == "tool_use":
            call = self._calls[index] = _Call(len(self._calls), block.get("input") or {})
            return [ToolCallDelta(call.number, text_of(block["id"]), text_of(block["name"]))]
        if kind == "text":
            return _written(TextDelta(text_of(block.get("text") or "")))
        if kind == "thinking":
            self._thoughts[index] = Thought(signature=text_of(block.get("signature") or ""))
            return _written(ReasoningDelta(text_of(block.get("thinking") or "")))
        if kind == "redacted_thinking":
            self._thoughts[index] = Thought(redacted=text_of(block["data"]))
        return []

    def _piece(self, index: int, delta: dict[str, Any]) -> list[Delta]:
        kind = delta.get("type")
        if kind == "text_delta":
            return _written(TextDelta(text_of(delta["text"])))
        if kind == "thinking_delta":
            return _written(ReasoningDelta(text_of(delta["thinking"])))
        if kind == "signature_delta":
            self._thoughts[index] = Thought(signature=text_of(delta["signature"]))
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
        if (thought := self._thoughts.pop(index, None)) is not None:
            return [thought]
        call = self._calls.get(index)
        if call is None or call.whole_input is None:
            return []
        # Without arguments no piece comes, but a caller wants JSON.
        return [ToolCallDelta(call.number, arguments=orjson.dumps(call.whole_input).decode())]

    def _count(self, usage: Any) -> None:
        # Every event tells the counts up to then, and may leave some out.
        if not isinstance(usage, dict):
            return
        details = usage.get("output_tokens_details")
        told = {**usage, _THINKING: details.get(_THINKING) if isinstance(details, dict) else 0}
        for name in self._counts:
            self._counts[name] = max(self._counts[name], count_of(told.get(name)))


@dataclass(slots=True)
class _Call:
    """A tool call by its number among the calls; `whole_input` is its input as long as no piece of it came."""

    number: int
    whole_input: dict[str, Any] | None


def _written(delta: TextDelta | ReasoningDelta) -> list[Delta]:
    return [delta] if delta.text else []
