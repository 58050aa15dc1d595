"""Reads the messages of OpenAI's chat completion requests."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.api.types.v1 import types_pb2
from agentmesh_gateway import media_parts
from agentmesh_gateway.vendor_fields import Given, Loose, Violations

_AUDIO_TYPES = {"wav": "audio/wav", "mp3": "audio/mpeg"}
_ROLES = {
    "system": pb.CHAT_ROLE_SYSTEM,
    "developer": pb.CHAT_ROLE_SYSTEM,
    "user": pb.CHAT_ROLE_USER,
    "assistant": pb.CHAT_ROLE_ASSISTANT,
    "tool": pb.CHAT_ROLE_TOOL,
}


def _as_parts(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


class _ImageUrl(Loose):
    url: str


class _InputAudio(Given):
    data: str
    format: Literal["wav", "mp3"]


class _File(Given):
    file_data: str | None = None
    filename: str = ""
    file_id: str | None = None


class _Part(Loose):
    type: Literal["text", "refusal", "image_url", "input_audio", "file"]
    text: str | None = None
    refusal: str | None = None
    image_url: _ImageUrl | None = None
    input_audio: _InputAudio | None = None
    file: _File | None = None


class _Function(Loose):
    name: str
    arguments: str


class _ToolCall(Loose):
    id: str
    type: Literal["function"] = "function"
    function: _Function


class Message(Loose):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[list[_Part] | None, BeforeValidator(_as_parts)] = None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_call_id: str = ""


def message_of(message: Message, path: str, violations: Violations) -> pb.ChatMessage:
    """Return a turn as the contract has it, and note what is wrong with it."""
    written = pb.ChatMessage(role=_ROLES[message.role], tool_call_id=message.tool_call_id)
    for number, part in enumerate(message.content or ()):
        here = f"{path}.content[{number}].{part.type}"
        try:
            written.parts.append(_part(part))
        except ValueError as error:
            violations.append((here, str(error)))
    if message.refusal and not written.parts:
        written.parts.append(media_parts.text_part(message.refusal))
    if message.reasoning_content and message.role == "assistant":
        written.thoughts.add(text=message.reasoning_content)
    for call in message.tool_calls or ():
        written.tool_calls.append(pb.ToolUse(id=call.id, name=call.function.name, arguments=call.function.arguments))
    violations.extend(_faults(message, written, path))
    return written


def _faults(message: Message, written: pb.ChatMessage, path: str) -> Iterator[tuple[str, str]]:
    if not message.content and not written.parts and not written.tool_calls:
        yield f"{path}.content", "must hold something"
    if message.role == "tool" and not message.tool_call_id:
        yield f"{path}.tool_call_id", "must name the call that this answers"
    if message.tool_calls and message.role != "assistant":
        yield f"{path}.tool_calls", "can be the assistant's only"


def _part(part: _Part) -> types_pb2.Part:
    if part.type == "image_url" and part.image_url is not None:
        return media_parts.image_part(part.image_url.url)
    if part.type == "input_audio" and part.input_audio is not None:
        return media_parts.raw_part(part.input_audio.data, _AUDIO_TYPES[part.input_audio.format])
    if part.type == "file" and part.file is not None:
        if part.file.file_data is None:
            raise ValueError("must hold file_data: no files are kept here")
        return media_parts.data_url_part(part.file.file_data, part.file.filename)
    text = part.text if part.type == "text" else part.refusal
    if part.type not in ("text", "refusal") or text is None:
        raise ValueError("is needed")
    return media_parts.text_part(text)
