"""Writes questions as OpenAI's chat completions and reads their chunks, apart from how the bytes travel."""

from typing import Any

import orjson

from agentmesh_llm.adapters import openai_errors, openai_logprobs, openai_turns
from agentmesh_llm.adapters import provider_errors as errors
from agentmesh_llm.adapters.json_values import count_of, model_of, text_of
from agentmesh_llm.adapters.openai_steering import Dialect, steering
from agentmesh_llm.domain import (
    Delta,
    EmbedQuestion,
    Finish,
    FinishReason,
    Question,
    ReasoningDelta,
    ResponseFormat,
    TextDelta,
    Tool,
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


def question_body(question: Question, dialect: Dialect) -> bytes:
    """Write a question as the body of a streaming chat completion; raise InvalidRequest for what has no form there."""
    body: dict[str, Any] = {
        "model": question.model,
        "messages": openai_turns.messages(question.messages, reasoning_content=dialect.reasoning_content),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if question.tools:
        body["tools"] = [{"type": "function", "function": _function(tool)} for tool in question.tools]
        body["tool_choice"] = (
            {"type": "function", "function": {"name": question.tool_name}}
            if question.tool_mode is ToolMode.NAMED
            else question.tool_mode.value
        )
    if question.response_format is not None:
        body["response_format"] = _response_format(question.response_format)
    return orjson.dumps({**body, **steering(question, dialect)})


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
                raise openai_errors.event_error(chunk["error"])
            if usage := chunk.get("usage"):
                self._usage = read_usage(usage)
            if not self._model:
                self._model = model_of(chunk.get("model"))
            deltas: list[Delta] = []
            for choice in chunk.get("choices") or ():
                if not choice.get("index"):
                    self._choice(choice, deltas)
            return deltas
        except (AttributeError, KeyError, TypeError, ValueError):
            raise errors.garbage() from None

    def finish(self) -> list[Delta]:
        """Return the end of the answer, when its marker has come; raise Unavailable if no reason came before."""
        if self._reason is None:
            raise errors.interrupted()
        return [self._usage, Finish(self._reason, self._model)]

    def _choice(self, choice: dict[str, Any], deltas: list[Delta]) -> None:
        delta = choice.get("delta") or {}
        if reasoning := delta.get("reasoning_content") or delta.get("reasoning"):
            deltas.append(ReasoningDelta(text_of(reasoning)))
        if content := delta.get("content") or delta.get("refusal"):
            deltas.append(TextDelta(text_of(content)))
        if likely := choice.get("logprobs"):
            deltas += openai_logprobs.deltas_of(likely)
        for position, call in enumerate(delta.get("tool_calls") or ()):
            deltas.append(self._tool_call(position, call))
        if reason := choice.get("finish_reason"):
            if reason in _BROKEN:
                raise errors.interrupted()
            self._reason = _REASONS.get(text_of(reason), FinishReason.UNKNOWN)

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


def read_usage(usage: dict[str, Any]) -> Usage:
    """Read token counts; what isn't a count is 0."""
    return Usage(
        count_of(usage.get("prompt_tokens")),
        count_of(usage.get("completion_tokens")),
        cached_input_tokens=_detail(usage, "prompt_tokens_details", "cached_tokens"),
        cache_write_tokens=_detail(usage, "prompt_tokens_details", "cache_write_tokens"),
        reasoning_tokens=_detail(usage, "completion_tokens_details", "reasoning_tokens"),
    )


def _detail(usage: dict[str, Any], group: str, name: str) -> int:
    details = usage.get(group)
    return count_of(details.get(name)) if isinstance(details, dict) else 0


def _function(tool: Tool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return function if tool.strict is None else {**function, "strict": tool.strict}


def _response_format(wanted: ResponseFormat) -> dict[str, Any]:
    if wanted.schema is None:
        return {"type": "json_object"}
    schema = {"name": wanted.name or "answer", "schema": wanted.schema, "strict": wanted.strict}
    return {"type": "json_schema", "json_schema": schema}
