"""Writes a conversation as the items of OpenAI's Responses API: messages, calls and their results, thoughts."""

import base64
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import orjson

from agentmesh_llm.adapters import provider_errors as errors
from agentmesh_llm.domain import DataPart, MediaPart, Message, Part, Role, TextPart, Thought

Item = dict[str, Any]


def items(messages: Iterable[Message]) -> list[Item]:
    """Write a conversation; raise InvalidRequest for a part that the API has no form for."""
    return [item for message in messages for item in _items(message)]


def _items(message: Message) -> Iterator[Item]:
    if message.role is Role.TOOL:
        yield {"type": "function_call_output", "call_id": message.tool_call_id, "output": _content(message.parts)}
    elif message.role is not Role.ASSISTANT:
        yield {"type": "message", "role": message.role.value, "content": _content(message.parts)}
    else:
        yield from map(_thought, filter(_is_its_own, message.thoughts))
        if message.parts:
            yield {"type": "message", "role": "assistant", "content": "".join(map(_said, message.parts))}
        for call in message.tool_calls:
            yield {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments}


def _is_its_own(thought: Thought) -> bool:
    """Return whether the API gave this thought: no other provider's has an id, and without its proof it is refused."""
    return bool(thought.id and thought.redacted)


def _thought(thought: Thought) -> Item:
    summary = [{"type": "summary_text", "text": thought.text}] if thought.text else []
    return {"type": "reasoning", "id": thought.id, "summary": summary, "encrypted_content": thought.redacted}


def _content(parts: Sequence[Part]) -> Any:
    if len(parts) == 1 and isinstance(parts[0], TextPart):
        return parts[0].text
    return [_part(part) for part in parts]


def _said(part: Part) -> str:
    written = _part(part)
    if "text" not in written:
        raise errors.unsupported_part("this provider takes only text in an assistant's turn")
    return str(written["text"])


def _part(part: Part) -> Item:
    if isinstance(part, TextPart):
        return {"type": "input_text", "text": part.text}
    if isinstance(part, DataPart):
        return {"type": "input_text", "text": orjson.dumps(part.value).decode()}
    kind = part.media_type.partition(";")[0].strip().lower()
    if kind.startswith("image/"):
        return {"type": "input_image", "image_url": part.url or _data_url(kind, part), "detail": "auto"}
    if kind.startswith("audio/"):
        raise errors.unsupported_part("this provider doesn't hear audio")
    if part.url.startswith("data:"):
        return {"type": "input_file", "filename": part.filename or "file", "file_data": part.url}
    if part.url:
        return {"type": "input_file", "file_url": part.url}
    if kind.startswith("text/") or kind == "application/json":
        try:
            return {"type": "input_text", "text": part.data.decode()}
        except UnicodeDecodeError:
            raise errors.unsupported_part("a text is not UTF-8") from None
    return {"type": "input_file", "filename": part.filename or "file", "file_data": _data_url(kind, part)}


def _data_url(kind: str, part: MediaPart) -> str:
    return f"data:{kind};base64,{base64.b64encode(part.data).decode()}"
