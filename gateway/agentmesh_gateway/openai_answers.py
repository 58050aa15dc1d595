"""Writes answers as OpenAI's clients read them: whole completions, and chunks of streams."""

import time
import uuid
from collections.abc import Iterable
from typing import Any

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.api.types.v1 import types_pb2
from agentmesh.kit.errors import MeshError
from agentmesh_gateway import openai_problems
from agentmesh_gateway.sse import on_one_line

_REASONS = {
    pb.FINISH_REASON_LENGTH: "length",
    pb.FINISH_REASON_TOOL_CALLS: "tool_calls",
    pb.FINISH_REASON_CONTENT_FILTER: "content_filter",
}
_DONE = b"data: [DONE]\n\n"


def completion_of(answer: pb.GenerateResponse, model: str) -> dict[str, Any]:
    """Return a whole answer as a `chat.completion` of the model that was asked for."""
    text = text_of(answer.message.parts)
    message: dict[str, Any] = {"role": "assistant", "content": text or None, "refusal": None}
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.message.tool_calls:
        message["tool_calls"] = [
            {
                "id": call.id or _call_id(),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in answer.message.tool_calls
        ]
    elif not text:
        message["content"] = ""
    choice = {
        "index": 0,
        "message": message,
        "logprobs": logprobs_of(answer.logprobs) if answer.logprobs else None,
        "finish_reason": _REASONS.get(answer.finish_reason, "stop"),
    }
    return {
        "id": _completion_id(),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [choice],
        "usage": usage_of(answer.usage),
    }


def usage_of(usage: types_pb2.Usage) -> dict[str, Any]:
    """Return what a call consumed."""
    written = {"cache_write_tokens": usage.cache_write_tokens} if usage.cache_write_tokens else {}
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_input_tokens, **written},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def logprobs_of(tokens: Iterable[pb.TokenLogprob]) -> dict[str, Any]:
    """Return how likely tokens were, each with the likeliest in its place."""
    content = [_logprob(token) | {"top_logprobs": list(map(_logprob, token.alternatives))} for token in tokens]
    return {"content": content, "refusal": None}


def _logprob(token: pb.TokenLogprob) -> dict[str, Any]:
    return {"token": token.token, "logprob": token.logprob, "bytes": list(token.utf8) or None}


def text_of(parts: Iterable[types_pb2.Part]) -> str:
    """Join the texts of an answer."""
    return "".join(part.text for part in parts)


class Chunks:
    """One streamed answer as `chat.completion.chunk` objects, the first with the role, the last but the end empty.

    With `include_usage` every chunk has `usage: null`, and one more without choices tells it. With `logprobs` a text
    waits for what follows it, because its likelihoods belong into its chunk; they come right after it, if at all.
    """

    heartbeat = b": still here\n\n"

    def __init__(self, model: str, *, include_usage: bool, logprobs: bool = False) -> None:
        self._frame = {
            "id": _completion_id(),
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
        }
        self._include_usage = include_usage
        self._usage = types_pb2.Usage()
        self._calls: set[int] = set()
        self._logprobs = logprobs
        self._waiting = ""

    def opening(self) -> bytes:
        """Write the chunk with the role."""
        return self._chunk({"role": "assistant", "content": "", "refusal": None})

    def piece(self, delta: pb.Delta) -> bytes:
        """Write a piece; usage is kept for the end."""
        kind = delta.WhichOneof("kind")
        if kind == "logprobs":
            text, self._waiting = self._waiting, ""
            return self._chunk({"content": text}, logprobs=logprobs_of(delta.logprobs.tokens))
        waited = self._waited()
        if kind == "text" and self._logprobs:
            self._waiting = delta.text
            return waited
        return waited + self._piece(kind, delta)

    def _piece(self, kind: str | None, delta: pb.Delta) -> bytes:
        if kind == "text":
            return self._chunk({"content": delta.text})
        if kind == "reasoning":
            return self._chunk({"reasoning_content": delta.reasoning})
        if kind == "tool_call":
            return self._chunk({"tool_calls": [self._tool_call(delta.tool_call)]})
        if kind == "finish":
            return self._chunk({}, _REASONS.get(delta.finish.reason, "stop"))
        if kind == "usage":
            self._usage = delta.usage
        return b""

    def ending(self) -> bytes:
        """Write the usage, if it was asked for, and the marker of a whole answer."""
        if not self._include_usage:
            return _DONE
        return _event({**self._frame, "choices": [], "usage": usage_of(self._usage)}) + _DONE

    def error(self, error: MeshError) -> bytes:
        """Write why the answer broke off; no marker follows."""
        return self._waited() + _event(openai_problems.body_of(error))

    def _waited(self) -> bytes:
        text, self._waiting = self._waiting, ""
        return self._chunk({"content": text}) if text else b""

    def _tool_call(self, call: pb.ToolCallDelta) -> dict[str, Any]:
        if call.index in self._calls:
            return {"index": call.index, "function": {"arguments": call.arguments}}
        self._calls.add(call.index)
        function = {"name": call.name, "arguments": call.arguments}
        return {"index": call.index, "id": call.id or _call_id(), "type": "function", "function": function}

    def _chunk(self, delta: dict[str, Any], reason: str | None = None, *, logprobs: object = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        usage = {"usage": None} if self._include_usage else {}
        return _event({**self._frame, "choices": [choice], **usage})


def _event(value: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % on_one_line(value)


def _completion_id() -> str:
    return f"chatcmpl-{uuid.uuid4().hex}"


def _call_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"
