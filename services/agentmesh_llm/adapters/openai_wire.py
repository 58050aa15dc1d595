"""Writes questions as OpenAI's chat completions and reads their chunks, apart from how the bytes travel."""

import base64
from collections.abc import Sequence
from typing import Any

import orjson

from agentmesh.kit.errors import MeshError
from agentmesh_llm.adapters import provider_errors as errors
from agentmesh_llm.adapters.json_values import count_of, model_of, text_of
from agentmesh_llm.domain import (
    DataPart,
    Delta,
    EmbedQuestion,
    Finish,
    FinishReason,
    Message,
    Part,
    Question,
    ReasoningDelta,
    TextDelta,
    TextPart,
    ToolCallDelta,
    ToolMode,
    Usage,
)

DONE = b"[DONE]"

_REASONS = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    "content_filter": FinishReason.CONTENT_FILTER,
}
# What some servers say when they gave up in the middle; it is an answer for nobody.
_BROKEN = ("error", "abort", "insufficient_system_resource")
_AUDIO_FORMATS = {"audio/wav": "wav", "audio/x-wav": "wav", "audio/mpeg": "mp3", "audio/mp3": "mp3"}


def question_body(question: Question, *, max_tokens_key: str) -> bytes:
    """Write a question as the body of a streaming chat completion; raise InvalidRequest for unsupported parts."""
    sampling = question.sampling
    body: dict[str, Any] = {
        "model": question.model,
        "messages": [_message(message) for message in question.messages],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if question.tools:
        body["tools"] = [
            {
                "type": "function",
                "function": {"name": t.name, "description": t.description, "parameters": t.parameters},
            }
            for t in question.tools
        ]
        body["tool_choice"] = (
            {"type": "function", "function": {"name": question.tool_name}}
            if question.tool_mode is ToolMode.NAMED
            else question.tool_mode.value
        )
    if (wanted := question.response_format) is not None:
        body["response_format"] = (
            {"type": "json_object"}
            if wanted.schema is None
            else {
                "type": "json_schema",
                "json_schema": {
                    "name": wanted.name or "answer",
                    "schema": wanted.schema,
                    "strict": wanted.strict,
                },
            }
        )
    optional = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        max_tokens_key: sampling.max_output_tokens or None,
        "stop": list(sampling.stop) or None,
        "seed": sampling.seed,
    }
    body.update({key: value for key, value in optional.items() if value is not None})
    return orjson.dumps(body)


def embed_body(question: EmbedQuestion) -> bytes:
    """Write texts as the body of an embeddings request."""
    body: dict[str, Any] = {
        "model": question.model,
        "input": question.inputs,
        # A third of the bytes of decimal numbers; servers that don't know it send decimal numbers.
        "encoding_format": "base64",
    }
    if question.dimensions:
        body["dimensions"] = question.dimensions
    return orjson.dumps(body)


class ChunkReader:
    """Turns the chunks of one answer into deltas and knows, in the end, whether it was whole."""

    def __init__(self) -> None:
        self.whole = False
        self._model = ""
        self._reason: FinishReason | None = None
        self._usage = Usage()
        self._begun_calls: set[int] = set()

    def read(self, data: bytes) -> list[Delta]:
        """Return the deltas of one chunk; raise Unavailable for an error event or what is no chunk."""
        if data == DONE:
            self.whole = True
            return []
        try:
            chunk = orjson.loads(data)
            if chunk.get("error") is not None:
                raise error_event(chunk["error"])
            if usage := chunk.get("usage"):
                self._usage = read_usage(usage)
            self._model = self._model or model_of(chunk.get("model"))
            choices = chunk.get("choices") or ()
            return [delta for choice in choices if not choice.get("index") for delta in self._choice(choice)]
        except (AttributeError, KeyError, TypeError, ValueError):
            raise errors.garbage() from None

    def finish(self) -> list[Delta]:
        """Return the end of the answer, when its marker has come; raise Unavailable if no reason came before."""
        if self._reason is None:
            raise errors.interrupted()
        return [self._usage, Finish(self._reason, self._model)]

    def _choice(self, choice: dict[str, Any]) -> list[Delta]:
        deltas: list[Delta] = []
        delta = choice.get("delta") or {}
        if reasoning := delta.get("reasoning_content") or delta.get("reasoning"):
            deltas.append(ReasoningDelta(text_of(reasoning)))
        if content := delta.get("content") or delta.get("refusal"):
            deltas.append(TextDelta(text_of(content)))
        for position, call in enumerate(delta.get("tool_calls") or ()):
            deltas.append(self._tool_call(position, call))
        if reason := choice.get("finish_reason"):
            if reason in _BROKEN:
                raise errors.interrupted()
            self._reason = _REASONS.get(text_of(reason), FinishReason.UNKNOWN)
        return deltas

    def _tool_call(self, position: int, call: dict[str, Any]) -> ToolCallDelta:
        index = call.get("index")
        if index is None:
            index = position
        if type(index) is not int or index < 0:
            raise TypeError
        function = call.get("function") or {}
        arguments = text_of(function.get("arguments") or "")
        if index in self._begun_calls:
            # Some servers repeat id and name with every piece.
            return ToolCallDelta(index, arguments=arguments)
        self._begun_calls.add(index)
        return ToolCallDelta(index, text_of(call.get("id") or ""), text_of(function.get("name") or ""), arguments)


def error_event(error: Any) -> MeshError:
    """Make the error for one that the provider reports inside a stream."""
    if is_context_length(error):
        return errors.context_length()
    return errors.failed_midway()


def refusal_of(error: Any) -> MeshError:
    """Make the error for a request that the provider finds wrong, from its error object, if there is one."""
    return errors.context_length() if is_context_length(error) else errors.refused()


def is_context_length(error: Any) -> bool:
    """Return whether a provider's error object says that the conversation is too long."""
    if not isinstance(error, dict):
        return False
    if str(error.get("code")) in ("context_length_exceeded", "exceed_context_size_error"):
        return True
    # Servers other than OpenAI's have no code for it; their text is looked at, never passed on.
    text = f"{error.get('type')} {error.get('message')}".lower()
    return any(
        sign in text
        for sign in ("context length", "context window", "context size", "prompt is too long", "context_size")
    )


def read_usage(usage: dict[str, Any]) -> Usage:
    """Read token counts; what isn't a count is 0."""
    details = usage.get("prompt_tokens_details")
    return Usage(
        count_of(usage.get("prompt_tokens")),
        count_of(usage.get("completion_tokens")),
        count_of(details.get("cached_tokens")) if isinstance(details, dict) else 0,
    )


def _message(message: Message) -> dict[str, Any]:
    body: dict[str, Any] = {"role": message.role.value, "content": _content(message.parts)}
    if message.tool_calls:
        body["tool_calls"] = [
            {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
            for c in message.tool_calls
        ]
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
