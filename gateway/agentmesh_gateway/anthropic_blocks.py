"""Reads the blocks that Anthropic's messages are made of; results of tools become messages of their own."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, JsonValue

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.api.types.v1 import types_pb2
from agentmesh_gateway import media_parts
from agentmesh_gateway.anthropic_thinking import CacheControl, mark_here

_PDF = "application/pdf"
Violations = list[tuple[str, str]]


def as_blocks(value: Any) -> Any:
    """Take a text for a list with one block."""
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


class Source(BaseModel):
    """Where an image or a document comes from."""

    model_config = ConfigDict(strict=True, extra="forbid")

    type: Literal["base64", "url", "text", "content"]
    media_type: str = ""
    data: str = ""
    url: str = ""
    content: "Annotated[list[Block] | None, BeforeValidator(as_blocks)]" = None


class Block(BaseModel):
    """One block of any kind; citations change nothing."""

    model_config = ConfigDict(strict=True, extra="ignore")

    type: Literal["text", "image", "document", "tool_use", "tool_result", "thinking", "redacted_thinking"]
    text: str | None = None
    source: Source | None = None
    title: str | None = None
    context: str | None = None
    id: str = ""
    name: str = ""
    input: dict[str, JsonValue] | None = None
    tool_use_id: str = ""
    content: Annotated["list[Block] | None", BeforeValidator(as_blocks)] = None
    thinking: str = ""
    signature: str = ""
    data: str = ""
    cache_control: CacheControl | None = None
    is_error: bool | None = None

    @property
    def is_thought(self) -> bool:
        """Whether it is what the model thought, shown or not."""
        return self.type in ("thinking", "redacted_thinking")


class BlockReader:
    """Turns the blocks of one message into messages of the contract, and notes what is wrong with them."""

    def __init__(self, role: pb.ChatRole.ValueType, path: str, violations: Violations) -> None:
        self._role = role
        self._path = path
        self._violations = violations

    def messages_of(self, blocks: Sequence[Block]) -> list[pb.ChatMessage]:
        """Return the messages in the order of the blocks; none if the model only thought.

        A thought between others begins a message of its own, because it has to go back to where it was.
        """
        written: list[pb.ChatMessage] = []
        current = pb.ChatMessage(role=self._role)
        for number, block in enumerate(blocks):
            here = f"{self._path}[{number}]"
            apart = block.type == "tool_result" or (block.is_thought and bool(block.signature or block.data))
            if apart and (current.parts or current.tool_calls):
                written.append(current)
                current = pb.ChatMessage(role=self._role)
            if block.type == "tool_result":
                written.append(self._result(block, here))
                continue
            if block.type == "tool_use":
                current.tool_calls.append(self._use(block, here))
            elif block.is_thought:
                current.thoughts.append(self._thought(block, here))
            else:
                current.parts.extend(_parts(block, here, self._violations))
            if block.cache_control is not None:
                mark_here(current, block.cache_control)
        if current.parts or current.tool_calls:
            written.append(current)
        return written

    def _thought(self, block: Block, path: str) -> pb.Thought:
        if self._role != pb.CHAT_ROLE_ASSISTANT:
            self._violations.append((path, "can be the assistant's only"))
        return pb.Thought(text=block.thinking, signature=block.signature, redacted=block.data)

    def _use(self, block: Block, path: str) -> pb.ToolUse:
        if self._role != pb.CHAT_ROLE_ASSISTANT:
            self._violations.append((path, "can be the assistant's only"))
        if not block.id or not block.name or block.input is None:
            self._violations.append((path, "must have id, name and input"))
        return pb.ToolUse(id=block.id, name=block.name, arguments=orjson.dumps(block.input or {}).decode())

    def _result(self, block: Block, path: str) -> pb.ChatMessage:
        if self._role != pb.CHAT_ROLE_USER:
            self._violations.append((path, "can be the user's only"))
        if not block.tool_use_id:
            self._violations.append((f"{path}.tool_use_id", "must name the call that this answers"))
        result = pb.ChatMessage(
            role=pb.CHAT_ROLE_TOOL, tool_call_id=block.tool_use_id, tool_failed=bool(block.is_error)
        )
        for number, inner in enumerate(block.content or ()):
            result.parts.extend(_parts(inner, f"{path}.content[{number}]", self._violations))
        if not result.parts:
            result.parts.append(media_parts.text_part(""))
        marks = [inner.cache_control for inner in block.content or () if inner.cache_control is not None]
        if (control := block.cache_control or next(iter(marks), None)) is not None:
            mark_here(result, control)
        return result


def system_message(blocks: Sequence[Block], violations: Violations) -> pb.ChatMessage:
    """Return the operator's orders, which may be text only."""
    orders = pb.ChatMessage(role=pb.CHAT_ROLE_SYSTEM)
    for number, block in enumerate(blocks):
        if block.type != "text":
            violations.append((f"system[{number}]", "must be a text block"))
        orders.parts.append(media_parts.text_part(block.text or ""))
        if block.cache_control is not None:
            mark_here(orders, block.cache_control)
    return orders


def _parts(block: Block, path: str, violations: Violations) -> list[types_pb2.Part]:
    try:
        return list(_content(block, path, violations))
    except ValueError as error:
        violations.append((f"{path}.{'text' if block.type == 'text' else 'source'}", str(error)))
        return []


def _content(block: Block, path: str, violations: Violations) -> Iterator[types_pb2.Part]:
    if block.type == "text":
        if block.text is None:
            raise ValueError("is needed")
        yield media_parts.text_part(block.text)
    elif block.type not in ("image", "document"):
        raise ValueError(f"can't be in a {block.type} block here")
    elif block.source is None:
        raise ValueError("is needed")
    elif block.type == "image":
        yield _image(block.source)
    else:
        if block.context:
            yield media_parts.text_part(block.context)
        yield from _document(block.source, block.title or "", path, violations)


def _image(source: Source) -> types_pb2.Part:
    if source.type == "base64":
        if not source.media_type.startswith("image/"):
            raise ValueError("must have the media_type of an image")
        return media_parts.raw_part(source.data, source.media_type)
    if source.type != "url":
        raise ValueError("must be of type base64 or url")
    return media_parts.url_part(source.url, media_parts.ANY_IMAGE)


def _document(source: Source, title: str, path: str, violations: Violations) -> Iterator[types_pb2.Part]:
    if source.type == "base64":
        yield media_parts.raw_part(source.data, source.media_type or _PDF, title)
    elif source.type == "url":
        yield media_parts.url_part(source.url, _PDF)
    elif source.type == "text":
        yield media_parts.text_part(source.data)
    else:
        for number, inner in enumerate(source.content or ()):
            yield from _parts(inner, f"{path}.source.content[{number}]", violations)
