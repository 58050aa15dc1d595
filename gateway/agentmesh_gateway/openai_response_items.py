"""Reads the items of OpenAI's Responses API; what the assistant says in a row is told in its order."""

import base64
import binascii
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Final, Literal

from google.protobuf.message import DecodeError
from pydantic import BeforeValidator

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.api.types.v1 import types_pb2
from agentmesh_gateway import media_parts
from agentmesh_gateway.vendor_fields import Given, Loose, Violations

SEALED: Final = "agentmesh:"
"""Begins what a reasoning item keeps encrypted, when it is a thought as the llm-proxy gave it."""

_ROLES = {
    "system": pb.CHAT_ROLE_SYSTEM,
    "developer": pb.CHAT_ROLE_SYSTEM,
    "user": pb.CHAT_ROLE_USER,
    "assistant": pb.CHAT_ROLE_ASSISTANT,
}
_AUDIO_TYPES = {"wav": "audio/wav", "mp3": "audio/mpeg"}
# A server that makes files from addresses is the provider; what it will find there isn't known here.
_PDF = "application/pdf"


def _as_parts(value: Any) -> Any:
    return [{"type": "input_text", "text": value}] if isinstance(value, str) else value


class _InputAudio(Given):
    data: str
    format: Literal["wav", "mp3"]


class Part(Loose):
    """One part of what somebody said; how closely a picture is looked at is left to the provider."""

    type: Literal[
        "input_text",
        "output_text",
        "refusal",
        "input_image",
        "input_file",
        "input_audio",
        "reasoning_text",
        "summary_text",
    ]
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None
    file_id: str | None = None
    file_data: str | None = None
    file_url: str | None = None
    filename: str | None = None
    input_audio: _InputAudio | None = None


class Item(Loose):
    """One item of any kind; ids and states of items change nothing."""

    type: Literal["message", "function_call", "function_call_output", "reasoning", "item_reference"] = "message"
    id: str | None = None
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: Annotated[list[Part] | None, BeforeValidator(_as_parts)] = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: Annotated[list[Part] | None, BeforeValidator(_as_parts)] = None
    summary: list[Part] | None = None
    encrypted_content: str | None = None


def messages_of(items: Sequence[Item], violations: Violations) -> list[pb.ChatMessage]:
    """Return the conversation, and note what is wrong with it."""
    messages: list[pb.ChatMessage] = []
    for at, item in enumerate(items):
        path = f"input[{at}]"
        if (fault := _fault_of(item)) is not None:
            violations.append((f"{path}.{fault[0]}", fault[1]))
        elif item.type == "function_call_output":
            parts = list(_parts(item.output or (), f"{path}.output", violations))
            parts = parts or [media_parts.text_part("")]
            messages.append(pb.ChatMessage(role=pb.CHAT_ROLE_TOOL, tool_call_id=item.call_id or "", parts=parts))
        elif item.type == "message" and item.role is not None and item.role != "assistant":
            parts = list(_parts(item.content or (), f"{path}.content", violations))
            messages.append(pb.ChatMessage(role=_ROLES[item.role], parts=parts))
        else:
            if not messages or not _goes_on(messages[-1], item):
                messages.append(pb.ChatMessage(role=pb.CHAT_ROLE_ASSISTANT))
            _add(item, messages[-1], path, violations)
    # A turn in which the model only thought says nothing to any provider.
    return [message for message in messages if message.parts or message.tool_calls]


def _goes_on(message: pb.ChatMessage, item: Item) -> bool:
    """Return whether an item of the assistant's still fits into a message: thoughts, then words, then calls."""
    if item.type == "reasoning" and (message.parts or message.tool_calls):
        return False
    if item.type == "message" and message.tool_calls:
        return False
    return message.role == pb.CHAT_ROLE_ASSISTANT


def _fault_of(item: Item) -> tuple[str, str] | None:
    if item.type == "item_reference":
        return "type", "can't be item_reference: nothing is kept here, so send the item itself"
    if item.type == "message" and item.role is None:
        return "role", "is needed"
    if item.type == "message" and not item.content:
        return "content", "must hold something"
    if item.type in ("function_call", "function_call_output") and not item.call_id:
        return "call_id", "must name the call"
    if item.type == "function_call" and not item.name:
        return "name", "is needed"
    if item.type == "function_call_output" and item.output is None:
        return "output", "is needed"
    return None


def _add(item: Item, message: pb.ChatMessage, path: str, violations: Violations) -> None:
    """Add an item of the assistant's to what it has said before."""
    if item.type == "function_call":
        message.tool_calls.add(id=item.call_id or "", name=item.name or "", arguments=item.arguments or "")
    elif item.type == "message":
        message.parts.extend(_parts(item.content or (), f"{path}.content", violations))
    else:
        try:
            if (thought := _thought(item, item.encrypted_content or "")) != pb.Thought():
                message.thoughts.append(thought)
        except ValueError as error:
            violations.append((f"{path}.encrypted_content", str(error)))


def _thought(item: Item, kept: str) -> pb.Thought:
    """Return what the item was made of; an id counts only with what the provider keeps."""
    thought = pb.Thought(redacted=kept, id=(item.id or "") if kept else "")
    if kept.startswith(SEALED):
        try:
            thought = pb.Thought.FromString(base64.b64decode(kept.removeprefix(SEALED), validate=True))
        except (binascii.Error, DecodeError, ValueError):
            raise ValueError("is not what was given: send it back unchanged") from None
    thought.text = "".join(part.text or "" for part in (item.content or item.summary or ()))
    return thought


def sealed(thought: pb.Thought) -> str:
    """Return what the next request must bring back for the provider to know its thought again."""
    bare = pb.Thought(signature=thought.signature, redacted=thought.redacted, id=thought.id)
    return SEALED + base64.b64encode(bare.SerializeToString(deterministic=True)).decode()


def _parts(parts: Sequence[Part], path: str, violations: Violations) -> Iterator[types_pb2.Part]:
    for number, part in enumerate(parts):
        try:
            yield _part(part)
        except ValueError as error:
            violations.append((f"{path}[{number}].{part.type}", str(error)))


def _part(part: Part) -> types_pb2.Part:
    if part.type in ("input_image", "input_file") and part.file_id:
        raise ValueError("must hold its data: no files are kept here, so file_id names none")
    if part.type == "input_image":
        if part.image_url is None:
            raise ValueError("must hold an image_url")
        return media_parts.image_part(part.image_url)
    if part.type == "input_file":
        return _file(part)
    if part.type == "input_audio":
        if part.input_audio is None:
            raise ValueError("is needed")
        return media_parts.raw_part(part.input_audio.data, _AUDIO_TYPES[part.input_audio.format])
    text = part.refusal if part.type == "refusal" else part.text
    if text is None or part.type in ("reasoning_text", "summary_text"):
        raise ValueError("is needed" if text is None else "belongs into a reasoning item")
    return media_parts.text_part(text)


def _file(part: Part) -> types_pb2.Part:
    if part.file_data is not None:
        return media_parts.data_url_part(part.file_data, part.filename or "")
    if part.file_url is None:
        raise ValueError("must hold file_data or a file_url")
    return media_parts.url_part(part.file_url, _PDF)
