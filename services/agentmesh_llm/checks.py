"""Finds everything that is wrong with a request before a provider is asked."""

import math
from collections.abc import Iterable, Iterator

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.kit.errors import InvalidRequest

MAX_KEY_CHARACTERS = 256
_MAX_STOPS = 4
_MAX_INPUTS = 2048
_MAX_DIMENSIONS = 65_536
_MODES = frozenset(pb.CachePolicy.Mode.values())
_ROLES = frozenset(pb.ChatRole.values()) - {pb.CHAT_ROLE_UNSPECIFIED}
_CHOICES = frozenset(pb.ToolChoice.Mode.values())
_EFFORTS = frozenset(pb.Reasoning.Effort.values())
_THINKING = frozenset(pb.Reasoning.Mode.values())
_PRIORITIES = frozenset(pb.Priority.values())
_MAX_TTL_S = 30 * 86_400
_MAX_PATTERN = 512
_MAX_FALLBACKS = 4
_MAX_LOGPROBS = 20
_PENALTY = 2.0
_URL_SCHEMES = ("https://", "http://", "data:")
Violation = tuple[str, str]


def check_question(request: pb.GenerateRequest, *, only_texts: bool = False) -> None:
    """Raise InvalidRequest with the path of every field that is wrong; messages that are `only_texts` are right."""
    found = [] if only_texts else list(_messages(request.messages))
    if request.tools or request.HasField("tool_choice"):
        found += _tools(request)
    if request.HasField("sampling"):
        found += check_sampling(request.sampling)
    found += _steering(request)
    refuse(found)


def check_messages(messages: Iterable[pb.ChatMessage]) -> None:
    """Raise InvalidRequest if a conversation can't be put to a model."""
    refuse(list(_messages(messages)))


def check_embed(request: pb.EmbedRequest) -> None:
    """Raise InvalidRequest with the path of every field that is wrong."""
    found: list[Violation] = []
    if not 1 <= len(request.inputs) <= _MAX_INPUTS:
        found.append(("inputs", f"must be 1 to {_MAX_INPUTS} texts"))
    found += [(f"inputs[{at}]", "must not be empty") for at, text in enumerate(request.inputs) if not text]
    if not 0 <= request.dimensions <= _MAX_DIMENSIONS:
        found.append(("dimensions", f"must be from 0 to {_MAX_DIMENSIONS}"))
    refuse(found)
    check_policy(request.cache)


def check_policy(policy: pb.CachePolicy) -> None:
    """Raise InvalidRequest if a request asks of the cache what it can't do."""
    found: list[Violation] = []
    if policy.mode not in _MODES:
        found.append(("cache.mode", "is not known"))
    if policy.HasField("ttl") and not 0 < policy.ttl.ToNanoseconds() <= _MAX_TTL_S * 10**9:
        found.append(("cache.ttl", "must be more than 0 s, at most 30 days"))
    refuse(found)


def check_pattern(pattern: str) -> None:
    """Raise InvalidRequest if a pattern is longer than any model's id."""
    if len(pattern) > _MAX_PATTERN:
        refuse([("model_pattern", f"must be at most {_MAX_PATTERN} characters")])


def refuse(violations: list[Violation]) -> None:
    """Raise InvalidRequest if anything is wrong."""
    if violations:
        raise InvalidRequest("the request has wrong fields", violations=violations)


def _messages(messages: Iterable[pb.ChatMessage]) -> Iterator[Violation]:
    empty = True
    for at, message in enumerate(messages):
        empty = False
        path = f"messages[{at}]"
        # Each look at a message's field costs as much as several at an object's.
        role, parts, tool_calls = message.role, message.parts, message.tool_calls
        if role not in _ROLES:
            yield f"{path}.role", "must be set"
        if not parts and not tool_calls:
            yield f"{path}.parts", "must hold something"
        if role == pb.CHAT_ROLE_TOOL and not message.tool_call_id:
            yield f"{path}.tool_call_id", "must name the call that this answers"
        if role != pb.CHAT_ROLE_ASSISTANT:
            if tool_calls:
                yield f"{path}.tool_calls", "only the assistant calls tools"
            if message.thoughts:
                yield f"{path}.thoughts", "only the assistant thinks"
        for number, mark in enumerate(message.cache_breakpoints):
            if not 0 <= mark.part < max(1, len(parts) + bool(tool_calls)):
                yield f"{path}.cache_breakpoints[{number}].part", "must be one of the parts"
        for number, part in enumerate(parts):
            kind = part.WhichOneof("content")
            if kind == "text":
                continue
            if kind is None:
                yield f"{path}.parts[{number}]", "must hold something"
            elif kind in ("raw", "url") and not part.media_type:
                yield f"{path}.parts[{number}].media_type", "must say what the content is"
            if kind == "url" and not part.url.startswith(_URL_SCHEMES):
                yield f"{path}.parts[{number}].url", "must be an http, https or data address"
    if empty:
        yield "messages", "must hold at least one message"


def _tools(request: pb.GenerateRequest) -> Iterator[Violation]:
    tools = [tool.name for tool in request.tools]
    for at, name in enumerate(tools):
        if not name:
            yield f"tools[{at}].name", "must be set"
        elif name in tools[:at]:
            yield f"tools[{at}].name", "must be unique"
    choice = request.tool_choice
    if choice.mode not in _CHOICES:
        yield "tool_choice.mode", "is not known"
    if choice.mode == pb.ToolChoice.MODE_NAMED and choice.name not in tools:
        yield "tool_choice.name", "must be one of the tools"
    if choice.mode == pb.ToolChoice.MODE_REQUIRED and not tools:
        yield "tools", "must hold a tool where one must be called"


def check_sampling(sampling: pb.Sampling) -> Iterator[Violation]:
    """Yield what is wrong with how an answer is to be written."""
    for name, limit in (("temperature", 2.0), ("top_p", 1.0)):
        value = getattr(sampling, name)
        if math.isnan(value) or not 0 <= value <= limit:
            yield f"sampling.{name}", f"must be from 0 to {limit:g}"
    for name in ("frequency_penalty", "presence_penalty"):
        if not abs(getattr(sampling, name)) <= _PENALTY:
            yield f"sampling.{name}", f"must be from -{_PENALTY:g} to {_PENALTY:g}"
    if sampling.HasField("top_k") and sampling.top_k < 1:
        yield "sampling.top_k", "must be at least 1"
    if sampling.max_output_tokens < 0:
        yield "sampling.max_output_tokens", "must not be negative"
    if len(sampling.stop) > _MAX_STOPS or not all(sampling.stop):
        yield "sampling.stop", f"must be at most {_MAX_STOPS} texts, none of them empty"


def _steering(request: pb.GenerateRequest) -> Iterator[Violation]:
    if len(request.idempotency_key) > MAX_KEY_CHARACTERS:
        yield "idempotency_key", f"must be at most {MAX_KEY_CHARACTERS} characters"
    if len(request.fallbacks) > _MAX_FALLBACKS:
        yield "fallbacks", f"must be at most {_MAX_FALLBACKS} models"
    if request.HasField("top_logprobs") and not 0 <= request.top_logprobs <= _MAX_LOGPROBS:
        yield "top_logprobs", f"must be from 0 to {_MAX_LOGPROBS}"
    if request.HasField("reasoning"):
        if request.reasoning.effort not in _EFFORTS:
            yield "reasoning.effort", "is not known"
        if request.reasoning.mode not in _THINKING:
            yield "reasoning.mode", "is not known"
        if request.reasoning.max_tokens < 0:
            yield "reasoning.max_tokens", "must not be negative"
    if request.priority not in _PRIORITIES:
        yield "priority", "is not known"
    if len(request.prompt_cache_key) > MAX_KEY_CHARACTERS:
        yield "prompt_cache_key", f"must be at most {MAX_KEY_CHARACTERS} characters"
