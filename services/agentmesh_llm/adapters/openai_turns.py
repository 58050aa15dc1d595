"""Writes a conversation as the messages of OpenAI's chat completions."""

import base64
from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from agentmesh_llm.adapters import provider_errors as errors
from agentmesh_llm.domain import DataPart, Message, Part, TextPart

_AUDIO_FORMATS = {"audio/wav": "wav", "audio/x-wav": "wav", "audio/mpeg": "mp3", "audio/mp3": "mp3"}


def messages(conversation: Iterable[Message], *, reasoning_content: bool) -> list[dict[str, Any]]:
    """Write a conversation; raise Unsupported for a part that the API has no form for.

    What the assistant thought stays away, as do marks for prompt caches, which these servers fill by themselves. Only
    with `reasoning_content` is it sent, and only what is nobody's signed writing: some servers want it back.
    """
    return [_message(message, reasoning_content) for message in _joined(conversation)]


def _joined(conversation: Iterable[Message]) -> list[Message]:
    """Join what the assistant said on after calling tools: here the answers of tools follow the message that calls."""
    joined: list[Message] = []
    for message in conversation:
        before = joined[-1] if joined else None
        if before is not None and before.tool_calls and message.role is before.role:
            joined[-1] = before._replace(
                parts=before.parts + message.parts,
                tool_calls=before.tool_calls + message.tool_calls,
                thoughts=before.thoughts + message.thoughts,
            )
        else:
            joined.append(message)
    return joined


def _message(message: Message, reasoning_content: bool) -> dict[str, Any]:
    body: dict[str, Any] = {"role": message.role.value, "content": _content(message.parts)}
    if message.tool_calls:
        body["tool_calls"] = [
            {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
            for c in message.tool_calls
        ]
    plain = [thought.text for thought in message.thoughts if not thought.signature and not thought.redacted]
    if reasoning_content and any(plain):
        body["reasoning_content"] = "".join(plain)
    if message.tool_call_id:
        body["tool_call_id"] = message.tool_call_id
    return body


def _content(parts: Sequence[Part]) -> Any:
    if not parts:
        return None
    if len(parts) == 1 and isinstance(parts[0], TextPart):
        return parts[0].text  # small servers know no lists
    return [_part(part) for part in parts]


def _part(part: Part) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    if isinstance(part, DataPart):
        return {"type": "text", "text": orjson.dumps(part.value).decode()}
    kind = part.media_type.partition(";")[0].strip().lower()
    if kind.startswith("image/"):
        return {"type": "image_url", "image_url": {"url": part.url or _data_url(kind, part.data)}}
    if part.url:
        raise errors.unsupported_part("this provider reads only images from an address")
    if kind.startswith("audio/"):
        if kind not in _AUDIO_FORMATS:
            raise errors.unsupported_part("this provider hears audio/wav and audio/mpeg only")
        encoded = base64.b64encode(part.data).decode()
        return {"type": "input_audio", "input_audio": {"data": encoded, "format": _AUDIO_FORMATS[kind]}}
    if kind.startswith("text/") or kind == "application/json":
        try:
            return {"type": "text", "text": part.data.decode()}
        except UnicodeDecodeError:
            raise errors.unsupported_part("a text is not UTF-8") from None
    return {
        "type": "file",
        "file": {"filename": part.filename or "file", "file_data": _data_url(kind, part.data)},
    }


def _data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
