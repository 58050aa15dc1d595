"""Writes a conversation in Anthropic's form: instructions apart, then turns made of blocks."""

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from agentmesh.kit.errors import InvalidRequest
from agentmesh_llm.adapters import provider_errors as errors
from agentmesh_llm.adapters.anthropic_marks import cache_mark, marked
from agentmesh_llm.domain import DataPart, MediaPart, Message, Part, Role, TextPart, Thought, ToolUse

Block = dict[str, Any]

_IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")
_PDF = "application/pdf"
_DATA_URL = re.compile(r"data:(?P<kind>[^;,]*)(?:;[^;,]*)*;base64,(?P<data>.*)", re.DOTALL)


def instructions(messages: Iterable[Message], last: str = "") -> str | list[Block]:
    """Return what the operator says, wherever in the conversation: the API takes it once, before the first turn.

    It is one text, with `last` at its end, or blocks where the API's cache is to end in between.
    """
    blocks: list[Block] = []
    for message in messages:
        if message.role is Role.SYSTEM:
            blocks += marked(message, lambda part: _texts([part], "instructions hold only text"))
    blocks += [{"type": "text", "text": last}] if last else []
    if any("cache_control" in block for block in blocks):
        return blocks
    return "\n\n".join(block["text"] for block in blocks)


def turns(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Write the turns, those of one role that follow each other as one.

    Raises InvalidRequest for what the API has no form for, and if there is nothing but instructions.
    """
    written: list[dict[str, Any]] = []
    for at, message in enumerate(messages):
        role = "assistant" if message.role is Role.ASSISTANT else "user"
        blocks = _blocks(message, f"messages[{at}]")
        if not blocks:
            continue
        if written and written[-1]["role"] == role:
            written[-1]["content"] += blocks
        else:
            written.append({"role": role, "content": blocks})
    for turn in written:
        # The API wants the answers of tools before everything else that the user says.
        turn["content"].sort(key=lambda block: block["type"] != "tool_result")
    if not written:
        text = "must hold something besides instructions"
        raise InvalidRequest("the conversation has no turn to answer", violations=[("messages", text)])
    return written


def _blocks(message: Message, path: str) -> list[Block]:
    if message.role is Role.SYSTEM:
        return []
    if message.role is Role.TOOL:
        result: Block = {"type": "tool_result", "tool_use_id": message.tool_call_id}
        if content := [block for part in message.parts for block in _content(part)]:
            result["content"] = content
        if message.tool_failed:
            result["is_error"] = True
        # What is inside a result can't be kept without it.
        return [result | cache_mark(message.cache_breakpoints[-1])] if message.cache_breakpoints else [result]
    if message.role is Role.USER:
        return marked(message, _content)
    calls = [_tool_use(call, f"{path}.tool_calls[{at}].arguments") for at, call in enumerate(message.tool_calls)]
    said = marked(message, lambda part: _texts([part], "this provider takes only text in an assistant's turn"), calls)
    return [*_thoughts(message.thoughts), *said]


def _thoughts(thoughts: Iterable[Thought]) -> list[Block]:
    """Write what the API can know again as its own, which has no ids; it refuses the rest."""
    blocks: list[Block] = []
    for thought in thoughts:
        if thought.redacted and not thought.id:
            blocks.append({"type": "redacted_thinking", "data": thought.redacted})
        elif thought.signature:
            blocks.append({"type": "thinking", "thinking": thought.text, "signature": thought.signature})
    return blocks


def _tool_use(call: ToolUse, path: str) -> Block:
    try:
        # Models that call a tool without arguments may write nothing at all.
        arguments = orjson.loads(call.arguments or "{}")
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        text = "must be a JSON object"
        raise InvalidRequest("the arguments of a tool call are no JSON object", violations=[(path, text)])
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": arguments}


def _content(part: Part) -> list[Block]:
    return _media(part) if isinstance(part, MediaPart) else _text(part)


def _texts(parts: Sequence[Part], otherwise: str) -> list[Block]:
    """Write text only; raise InvalidRequest, which says `otherwise`, for anything else."""
    blocks: list[Block] = []
    for part in parts:
        if not isinstance(part, MediaPart):
            blocks += _text(part)
        elif part.data and _is_text(_kind(part)):
            blocks += _text(TextPart(_decoded(part)))
        else:
            raise errors.unsupported_part(otherwise)
    return blocks


def _text(part: TextPart | DataPart) -> list[Block]:
    text = part.text if isinstance(part, TextPart) else orjson.dumps(part.value).decode()
    # The API refuses a text of nothing but space.
    return [{"type": "text", "text": text}] if text.strip() else []


def _media(part: MediaPart) -> list[Block]:
    if part.url.startswith("data:"):
        part = _unpacked(part)
    kind = _kind(part)
    if kind.startswith("image/"):
        return [{"type": "image", "source": _source(part, kind, _IMAGES)}]
    if kind == _PDF:
        return [_document(part, _source(part, kind, (_PDF,)))]
    if kind.startswith("audio/"):
        raise errors.unsupported_part("this provider doesn't hear audio")
    if not _is_text(kind):
        raise errors.unsupported_part("this provider reads only text, images and PDF files")
    if part.url:
        raise errors.unsupported_part("this provider reads only images and PDF files from an address")
    text = _decoded(part)
    source = {"type": "text", "media_type": "text/plain", "data": text}
    return [_document(part, source)] if text.strip() else []


def _source(part: MediaPart, kind: str, known: Sequence[str]) -> Block:
    if part.url:
        return {"type": "url", "url": part.url}
    if kind not in known:
        raise errors.unsupported_part("this provider sees JPEG, PNG, GIF and WebP images only")
    return {"type": "base64", "media_type": kind, "data": base64.b64encode(part.data).decode()}


def _document(part: MediaPart, source: Block) -> Block:
    title = {"title": part.filename} if part.filename else {}
    return {"type": "document", "source": source, **title}


def _unpacked(part: MediaPart) -> MediaPart:
    """Return the content of a data address, which the API takes for no address."""
    match = _DATA_URL.fullmatch(part.url)
    try:
        data = base64.b64decode(match["data"], validate=True) if match else b""
    except binascii.Error:
        data = b""
    if match is None or not data:
        raise errors.unsupported_part("a data address must hold base64")
    return MediaPart(match["kind"] or part.media_type, data=data, filename=part.filename)


def _kind(part: MediaPart) -> str:
    kind = part.media_type.partition(";")[0].strip().lower()
    return "image/jpeg" if kind == "image/jpg" else kind


def _is_text(kind: str) -> bool:
    return kind.startswith("text/") or kind == "application/json"


def _decoded(part: MediaPart) -> str:
    try:
        return part.data.decode()
    except UnicodeDecodeError:
        raise errors.unsupported_part("a text is not UTF-8") from None
