"""What was said in a call, cut to a bound, for traces in which the operator wants to read it."""

import json
from collections.abc import Sequence
from typing import Any

from agentmesh_llm.domain import (
    DataPart,
    Delta,
    MediaPart,
    Message,
    Part,
    Question,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
)
from agentmesh_llm.watching.calls import Content


class Transcript:
    """Listens to an answer; holds at most `max_characters` of it."""

    def __init__(self, max_characters: int) -> None:
        self._max_characters = max_characters
        self._answer = _Cut(max_characters)
        self._parts: list[dict[str, Any]] = []

    def hear(self, batch: Sequence[Delta]) -> None:
        """Keep what is said, until there is no more room."""
        for delta in batch:
            if isinstance(delta, TextDelta):
                self._say("text", delta.text)
            elif isinstance(delta, ReasoningDelta):
                self._say("reasoning", delta.text)
            elif isinstance(delta, ToolCallDelta):
                self._call(delta)

    def content(self, question: Question | None, finish_reason: str) -> Content:
        """Return what was asked and answered."""
        asked = _Cut(self._max_characters)
        messages = question.messages if question is not None else ()
        answer = {"role": "assistant", "parts": self._parts, "finish_reason": finish_reason}
        return Content(_json([_message(message, asked) for message in messages if asked.left]), _json([answer]))

    def _say(self, kind: str, text: str) -> None:
        if not self._answer.left:
            return
        if not self._parts or self._parts[-1]["type"] != kind:
            self._parts.append({"type": kind, "content": ""})
        self._parts[-1]["content"] += self._answer.take(text)

    def _call(self, delta: ToolCallDelta) -> None:
        if not self._answer.left:
            return
        part = next((one for one in self._parts if one.get("index") == delta.index), None)
        if part is None:
            part = {"type": "tool_call", "index": delta.index, "id": "", "name": "", "arguments": ""}
            self._parts.append(part)
        part["id"] += self._answer.take(delta.id)
        part["name"] += self._answer.take(delta.name)
        part["arguments"] += self._answer.take(delta.arguments)


class _Cut:
    """Gives out texts until there were so many characters; each piece costs one at least."""

    def __init__(self, characters: int) -> None:
        self.left = characters

    def take(self, text: str) -> str:
        """Return as much of a text as there is room for."""
        some = text[: self.left]
        self.left -= min(self.left, max(len(some), 1))
        return some


def _message(message: Message, cut: _Cut) -> dict[str, Any]:
    parts = [_part(part, cut) for part in message.parts if cut.left]
    for call in message.tool_calls:
        if cut.left:
            call_id, name, arguments = map(cut.take, (call.id, call.name, call.arguments))
            parts.append({"type": "tool_call", "id": call_id, "name": name, "arguments": arguments})
    return {"role": message.role.value, "parts": parts}


def _part(part: Part, cut: _Cut) -> dict[str, Any]:
    if isinstance(part, MediaPart):
        # Megabytes that nobody can read in a trace.
        return {"type": "blob", "mime_type": cut.take(part.media_type)}
    text = json.dumps(part.value, ensure_ascii=False) if isinstance(part, DataPart) else part.text
    return {"type": "text", "content": cut.take(text)}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
