"""Between the contract's messages and the domain."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from google.protobuf.struct_pb2 import Struct, Value

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.api.types.v1 import types_pb2
from agentmesh.kit.answers import NOT_ASKED_FOR, fold
from agentmesh_llm.checks import check_embed, check_question
from agentmesh_llm.domain import (
    CacheBreakpoint,
    DataPart,
    Delta,
    Effort,
    EmbedQuestion,
    Finish,
    FinishReason,
    LogprobsDelta,
    MediaPart,
    Message,
    Model,
    Part,
    Priority,
    Question,
    Reasoning,
    ReasoningDelta,
    ResponseFormat,
    Role,
    Sampling,
    TextDelta,
    TextPart,
    Thinking,
    Thought,
    TokenLogprob,
    Tool,
    ToolCallDelta,
    ToolMode,
    ToolUse,
    Usage,
)

_ROLES = {
    pb.CHAT_ROLE_SYSTEM: Role.SYSTEM,
    pb.CHAT_ROLE_USER: Role.USER,
    pb.CHAT_ROLE_ASSISTANT: Role.ASSISTANT,
    pb.CHAT_ROLE_TOOL: Role.TOOL,
}
_TALKERS = {wire: role for wire, role in _ROLES.items() if role is not Role.TOOL}
_MODES = {
    pb.ToolChoice.MODE_UNSPECIFIED: ToolMode.AUTO,
    pb.ToolChoice.MODE_AUTO: ToolMode.AUTO,
    pb.ToolChoice.MODE_NONE: ToolMode.NONE,
    pb.ToolChoice.MODE_REQUIRED: ToolMode.REQUIRED,
    pb.ToolChoice.MODE_NAMED: ToolMode.NAMED,
}
_EFFORTS = {
    pb.Reasoning.EFFORT_UNSPECIFIED: None,
    **{pb.Reasoning.Effort.Value(f"EFFORT_{effort.name}"): effort for effort in Effort},
}
_THINKING = {
    pb.Reasoning.MODE_UNSPECIFIED: None,
    **{pb.Reasoning.Mode.Value(f"MODE_{mode.name}"): mode for mode in Thinking},
}
_PRIORITIES = {
    pb.PRIORITY_UNSPECIFIED: Priority.INTERACTIVE,
    pb.PRIORITY_INTERACTIVE: Priority.INTERACTIVE,
    pb.PRIORITY_BACKGROUND: Priority.BACKGROUND,
}
_REASONS = {
    FinishReason.UNKNOWN: pb.FINISH_REASON_UNSPECIFIED,
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    FinishReason.TOOL_CALLS: pb.FINISH_REASON_TOOL_CALLS,
    FinishReason.CONTENT_FILTER: pb.FINISH_REASON_CONTENT_FILTER,
}
_USUAL_SAMPLING = Sampling()
_ROLE_AND_PARTS = [pb.ChatMessage.ROLE_FIELD_NUMBER, pb.ChatMessage.PARTS_FIELD_NUMBER]
_REASON_OF = {written: reason for reason, written in _REASONS.items()}


def from_request(request: pb.GenerateRequest) -> Question:
    """Read a question; raise InvalidRequest with the paths of the fields that are wrong."""
    texts = only_texts(request.messages)
    check_question(request, only_texts=bool(texts))
    response_format = None
    if request.HasField("response_format"):
        wanted = request.response_format
        schema = json_of_struct(wanted.schema) if wanted.HasField("schema") else None
        response_format = ResponseFormat(wanted.name, schema, wanted.strict)
    choice, tools = request.tool_choice, request.tools
    return Question(
        model=request.model,
        messages=texts or from_messages(request.messages),
        tools=tuple(map(_tool, tools)) if tools else (),
        tool_mode=_MODES[choice.mode],
        tool_name=choice.name,
        response_format=response_format,
        sampling=from_sampling(request.sampling) if request.HasField("sampling") else _USUAL_SAMPLING,
        parallel_tool_calls=request.parallel_tool_calls if request.HasField("parallel_tool_calls") else None,
        reasoning=_reasoning(request.reasoning) if request.HasField("reasoning") else None,
        top_logprobs=request.top_logprobs if request.HasField("top_logprobs") else None,
        priority=_PRIORITIES[request.priority],
        prompt_cache_key=request.prompt_cache_key,
    )


def from_messages(messages: Iterable[pb.ChatMessage]) -> tuple[Message, ...]:
    """Read a conversation that was checked."""
    return tuple(map(_message, messages))


def only_texts(messages: Iterable[pb.ChatMessage]) -> tuple[Message, ...]:
    """Read a conversation that is nothing but texts, as most are: no rule is about those. Return nothing for others."""
    read = []
    for message in messages:
        fields = message.ListFields()
        if [field.number for field, _ in fields] != _ROLE_AND_PARTS:
            return ()
        (_, written), (_, parts) = fields
        role = _TALKERS.get(written)
        texts = [TextPart(part.text) for part in parts if part.WhichOneof("content") == "text"]
        if role is None or len(texts) < len(parts):
            return ()
        read.append(Message(role, tuple(texts)))
    return tuple(read)


def _message(message: pb.ChatMessage) -> Message:
    calls, thoughts, breakpoints = message.tool_calls, message.thoughts, message.cache_breakpoints
    return Message(
        _ROLES[message.role],
        tuple(map(_part, message.parts)),
        tuple(ToolUse(call.id, call.name, call.arguments) for call in calls) if calls else (),
        message.tool_call_id,
        tuple(Thought(t.text, t.signature, t.redacted, t.id) for t in thoughts) if thoughts else (),
        tuple(map(_breakpoint, breakpoints)) if breakpoints else (),
        message.tool_failed,
    )


def from_embed_request(request: pb.EmbedRequest) -> EmbedQuestion:
    """Read texts to embed; raise InvalidRequest with the paths of the fields that are wrong."""
    check_embed(request)
    return EmbedQuestion(request.model, tuple(request.inputs), request.dimensions)


def digest_of(request: pb.GenerateRequest) -> bytes:
    """Return what stands for everything in a request but its key."""
    bare = pb.GenerateRequest()
    bare.CopyFrom(request)
    bare.ClearField("idempotency_key")
    return hashlib.blake2b(bare.SerializeToString(deterministic=True), digest_size=16).digest()


def to_usage(usage: Usage, model: str, *, calls: int = 1) -> types_pb2.Usage:
    """Write the tokens of an answer, and whether a call was made for it."""
    return types_pb2.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        llm_calls=calls,
        model=model,
        cache_write_tokens=usage.cache_write_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        cost_nano_usd=usage.cost_nano_usd if calls else 0,
    )


def to_delta(
    delta: Delta,
    model: Model,
    *,
    joined: bool = False,
    cache: pb.CacheOutcome.ValueType = pb.CACHE_OUTCOME_UNSPECIFIED,
) -> pb.Delta:
    """Write a piece of an answer of this model; one that was not asked for is no call."""
    if isinstance(delta, TextDelta):
        return pb.Delta(text=delta.text)
    if isinstance(delta, ReasoningDelta):
        return pb.Delta(reasoning=delta.text)
    if isinstance(delta, ToolCallDelta):
        return pb.Delta(
            tool_call=pb.ToolCallDelta(index=delta.index, id=delta.id, name=delta.name, arguments=delta.arguments)
        )
    if isinstance(delta, Thought):
        thought = pb.Thought(text=delta.text, signature=delta.signature, redacted=delta.redacted, id=delta.id)
        return pb.Delta(thought=thought)
    if isinstance(delta, LogprobsDelta):
        return pb.Delta(logprobs=pb.Logprobs(tokens=map(_to_logprob, delta.tokens)))
    if isinstance(delta, Usage):
        return pb.Delta(usage=to_usage(delta, model.id, calls=int(cache not in NOT_ASKED_FOR)))
    return pb.Delta(
        finish=pb.Finish(
            reason=to_reason(delta.reason),
            model=delta.model or model.name,
            provider=delta.provider or model.provider,
            joined=joined,
            cache=cache,
        )
    )


def to_response(
    deltas: Sequence[Delta],
    model: Model,
    *,
    joined: bool = False,
    cache: pb.CacheOutcome.ValueType = pb.CACHE_OUTCOME_UNSPECIFIED,
) -> pb.GenerateResponse:
    """Write a whole answer of this model, as `fold` makes it of its pieces."""
    *said, usage, end = deltas
    texts = [one.text for one in said if isinstance(one, TextDelta)]
    if len(texts) < len(said) or not (isinstance(usage, Usage) and isinstance(end, Finish)):
        return fold([to_delta(delta, model, joined=joined, cache=cache) for delta in deltas])
    # Most answers are text, which need not be written piece by piece.
    text = "".join(texts)
    return pb.GenerateResponse(
        message=pb.ChatMessage(role=pb.CHAT_ROLE_ASSISTANT, parts=[types_pb2.Part(text=text)] if text else ()),
        finish_reason=to_reason(end.reason),
        usage=to_usage(usage, model.id, calls=int(cache not in NOT_ASKED_FOR)),
        model=end.model or model.name,
        provider=end.provider or model.provider,
        joined=joined,
        cache=cache,
    )


def to_reason(reason: FinishReason) -> pb.FinishReason.ValueType:
    """Write why an answer ended."""
    return _REASONS[reason]


def from_reason(reason: "pb.FinishReason.ValueType") -> FinishReason:
    """Read why an answer ended."""
    return _REASON_OF.get(reason, FinishReason.UNKNOWN)


def to_model(model: Model) -> pb.Model:
    """Write a model."""
    return pb.Model(
        id=model.id,
        provider=model.provider,
        is_default=model.is_default,
        embeddings=model.embeddings,
        reranks=model.reranks,
    )


def json_of_struct(struct: Struct) -> dict[str, Any]:
    """Read a JSON object; whole numbers come back as integers, as schemas and providers want them."""
    return {key: _json(value) for key, value in struct.fields.items()}


def _json(value: Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return json_of_struct(value.struct_value)
    if kind == "list_value":
        return [_json(item) for item in value.list_value.values]
    if kind == "number_value":
        number = value.number_value
        # Beyond 2**53 a double no longer knows its last digits, and JSON writers refuse such integers.
        return int(number) if number.is_integer() and abs(number) <= 2**53 else number
    return None if kind in (None, "null_value") else getattr(value, kind)


def _part(part: types_pb2.Part) -> Part:
    kind = part.WhichOneof("content")
    if kind == "raw":
        return MediaPart(part.media_type, data=part.raw, filename=part.filename)
    if kind == "url":
        return MediaPart(part.media_type, url=part.url, filename=part.filename)
    return DataPart(_json(part.data)) if kind == "data" else TextPart(part.text)


def _tool(tool: pb.Tool) -> Tool:
    return Tool(
        tool.name,
        tool.description,
        json_of_struct(tool.parameters),
        tool.strict if tool.HasField("strict") else None,
        _breakpoint(tool.cache_breakpoint) if tool.HasField("cache_breakpoint") else None,
    )


def _breakpoint(wanted: pb.CacheBreakpoint) -> CacheBreakpoint:
    return CacheBreakpoint(wanted.part, wanted.ttl.ToMilliseconds() / 1000)


def _reasoning(wanted: pb.Reasoning) -> Reasoning:
    shown = wanted.shown if wanted.HasField("shown") else None
    return Reasoning(_EFFORTS[wanted.effort], wanted.max_tokens, shown, _THINKING[wanted.mode])


def _to_logprob(token: TokenLogprob) -> pb.TokenLogprob:
    return pb.TokenLogprob(
        token=token.token,
        logprob=token.logprob,
        utf8=token.utf8,
        alternatives=map(_to_logprob, token.alternatives),
    )


def from_sampling(sampling: pb.Sampling) -> Sampling:
    """Read how an answer is to be written."""
    return Sampling(
        temperature=sampling.temperature if sampling.HasField("temperature") else None,
        top_p=sampling.top_p if sampling.HasField("top_p") else None,
        max_output_tokens=sampling.max_output_tokens,
        stop=tuple(sampling.stop),
        seed=sampling.seed if sampling.HasField("seed") else None,
        frequency_penalty=sampling.frequency_penalty if sampling.HasField("frequency_penalty") else None,
        presence_penalty=sampling.presence_penalty if sampling.HasField("presence_penalty") else None,
        top_k=sampling.top_k if sampling.HasField("top_k") else None,
    )
