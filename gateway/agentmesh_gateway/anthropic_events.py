"""Writes answers as Anthropic's clients read them: whole messages, and the events of streams."""

import uuid
from typing import Any

import orjson

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.api.types.v1 import types_pb2
from agentmesh.kit.errors import MeshError, Unavailable
from agentmesh_gateway import anthropic_problems
from agentmesh_gateway.openai_answers import text_of
from agentmesh_gateway.sse import on_one_line

_REASONS = {
    pb.FINISH_REASON_LENGTH: "max_tokens",
    pb.FINISH_REASON_TOOL_CALLS: "tool_use",
    pb.FINISH_REASON_CONTENT_FILTER: "refusal",
}
_Place = tuple[str, int]  # the kind of a block, and the number of the call if it is one


def message_of(answer: pb.GenerateResponse, model: str) -> dict[str, Any]:
    """Return a whole answer as a `message`; raise Unavailable if a tool's arguments are no JSON object."""
    content = [_thought(thought) for thought in answer.message.thoughts]
    if answer.reasoning and not content:
        content.append(_thought(pb.Thought(text=answer.reasoning)))
    if text := text_of(answer.message.parts):
        content.append({"type": "text", "text": text, "citations": None})
    content += [
        {"type": "tool_use", "id": call.id or _call_id(), "name": call.name, "input": _input(call.arguments)}
        for call in answer.message.tool_calls
    ]
    return _frame(model) | {
        "content": content,
        "stop_reason": _REASONS.get(answer.finish_reason, "end_turn"),
        "usage": usage_of(answer.usage),
    }


def usage_of(usage: types_pb2.Usage) -> dict[str, Any]:
    """Return what a call consumed; what a cache served, and what went into it, is counted apart, as Anthropic does."""
    cached = min(usage.cached_input_tokens, usage.input_tokens)
    written = min(usage.cache_write_tokens, usage.input_tokens - cached)
    return {
        "input_tokens": usage.input_tokens - cached - written,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": cached,
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }


class Events:
    """One streamed answer as Anthropic's events: a message of blocks, each of which begins, grows and ends.

    A block is over when the next one begins. A provider that goes back to a call that is over can't be told in
    these events, and its answer breaks off.
    """

    heartbeat = b'event: ping\ndata: {"type":"ping"}\n\n'

    def __init__(self, model: str, request_id: str) -> None:
        self._model = model
        self._request_id = request_id
        self._usage = types_pb2.Usage()
        self._stop_reason = "end_turn"
        self._place: _Place | None = None
        self._index = -1
        self._calls: set[int] = set()

    def opening(self) -> bytes:
        """Write the event with the empty message."""
        message = _frame(self._model) | {"content": [], "stop_reason": None, "usage": usage_of(types_pb2.Usage())}
        return _event({"type": "message_start", "message": message})

    def piece(self, delta: pb.Delta) -> bytes:
        """Write a piece; usage and the reason are kept for the end."""
        kind = delta.WhichOneof("kind")
        if kind == "text":
            grown = {"type": "text_delta", "text": delta.text}
            return self._at(("text", 0), {"type": "text", "text": ""}) + self._delta(grown)
        if kind == "reasoning":
            begun = {"type": "thinking", "thinking": "", "signature": ""}
            grown = {"type": "thinking_delta", "thinking": delta.reasoning}
            return self._at(("thinking", 0), begun) + self._delta(grown)
        if kind == "thought":
            return self._thought(delta.thought)
        if kind == "tool_call":
            return self._tool_call(delta.tool_call)
        if kind == "usage":
            self._usage = delta.usage
        elif kind == "finish":
            self._stop_reason = _REASONS.get(delta.finish.reason, "end_turn")
        return b""

    def ending(self) -> bytes:
        """Write the end of the last block, why the answer ended, what it consumed, and that it is whole."""
        delta = {"stop_reason": self._stop_reason, "stop_sequence": None}
        return b"".join(
            (
                self._stop(),
                _event({"type": "message_delta", "delta": delta, "usage": usage_of(self._usage)}),
                _event({"type": "message_stop"}),
            )
        )

    def error(self, error: MeshError) -> bytes:
        """Write why the answer broke off; no message_stop follows."""
        return _event(anthropic_problems.body_of(error, self._request_id))

    def _thought(self, end: pb.Thought) -> bytes:
        """End a thought, which has begun unless nothing of it is told."""
        if end.redacted:
            return self._stop() + self._at(("redacted", 0), _thought(end)) + self._stop()
        begun = self._at(("thinking", 0), {"type": "thinking", "thinking": "", "signature": ""})
        signed = self._delta({"type": "signature_delta", "signature": end.signature}) if end.signature else b""
        return begun + signed + self._stop()

    def _tool_call(self, call: pb.ToolCallDelta) -> bytes:
        place = ("tool_use", call.index)
        if call.index in self._calls and self._place != place:
            raise Unavailable("the provider's answer can't be told in order", reason="PROVIDER_GARBAGE")
        self._calls.add(call.index)
        begun = self._at(place, {"type": "tool_use", "id": call.id or _call_id(), "name": call.name, "input": {}})
        if not call.arguments:
            return begun
        return begun + self._delta({"type": "input_json_delta", "partial_json": call.arguments})

    def _at(self, place: _Place, block: dict[str, Any]) -> bytes:
        """Go to a block, and write what ends the last and begins this one if it is new."""
        if place == self._place:
            return b""
        stopped = self._stop()
        self._place = place
        self._index += 1
        return stopped + _event({"type": "content_block_start", "index": self._index, "content_block": block})

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _event({"type": "content_block_delta", "index": self._index, "delta": delta})

    def _stop(self) -> bytes:
        if self._place is None:
            return b""
        self._place = None
        return _event({"type": "content_block_stop", "index": self._index})


def _thought(thought: pb.Thought) -> dict[str, Any]:
    if thought.redacted:
        return {"type": "redacted_thinking", "data": thought.redacted}
    return {"type": "thinking", "thinking": thought.text, "signature": thought.signature}


def _frame(model: str) -> dict[str, Any]:
    return {
        "id": f"msg_{uuid.uuid4().hex}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "stop_sequence": None,
    }


def _input(arguments: str) -> dict[str, Any]:
    try:
        value = orjson.loads(arguments or "{}")
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise Unavailable("the model called a tool with what is no JSON object", reason="PROVIDER_GARBAGE")
    return value


def _event(value: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (value["type"].encode(), on_one_line(value))


def _call_id() -> str:
    return f"toolu_{uuid.uuid4().hex[:24]}"
