"""Reads an answer that was kept back into the pieces that it was made of."""

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.api.types.v1 import types_pb2
from agentmesh_llm.domain import (
    Delta,
    Finish,
    LogprobsDelta,
    ReasoningDelta,
    TextDelta,
    Thought,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from agentmesh_llm.wire import from_reason


def deltas_of(entry: bytes) -> list[Delta]:
    """Return the deltas of an answer that `caching.entry_of` wrote."""
    return [_delta(delta) for delta in pb.StreamGenerateResponse.FromString(entry).deltas]


def _delta(delta: pb.Delta) -> Delta:
    kind = delta.WhichOneof("kind")
    if kind == "text":
        return TextDelta(delta.text)
    if kind == "reasoning":
        return ReasoningDelta(delta.reasoning)
    if kind == "tool_call":
        call = delta.tool_call
        return ToolCallDelta(call.index, call.id, call.name, call.arguments)
    if kind == "thought":
        thought = delta.thought
        return Thought(thought.text, thought.signature, thought.redacted, thought.id)
    if kind == "logprobs":
        return LogprobsDelta(tuple(map(_logprob, delta.logprobs.tokens)))
    if kind == "usage":
        return _usage(delta.usage)
    finish = delta.finish
    return Finish(from_reason(finish.reason), finish.model, finish.provider)


def _usage(usage: types_pb2.Usage) -> Usage:
    return Usage(
        usage.input_tokens,
        usage.output_tokens,
        usage.cached_input_tokens,
        usage.cache_write_tokens,
        usage.reasoning_tokens,
        usage.cost_nano_usd,
    )


def _logprob(token: pb.TokenLogprob) -> TokenLogprob:
    return TokenLogprob(token.token, token.logprob, token.utf8, tuple(map(_logprob, token.alternatives)))
