"""Reads OpenAI's chat completion requests; what can't be honoured and changes the answer is refused, not dropped."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, JsonValue

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh_gateway import vendor_fields
from agentmesh_gateway.json_schemas import struct_of
from agentmesh_gateway.openai_messages import Message, message_of
from agentmesh_gateway.vendor_fields import Given, Loose, refuse

_INT32_MAX = 2**31 - 1
_INT64 = {"ge": -(2**63), "lt": 2**63}
_MAX_LOGPROBS = 20
_Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
_MODES = {"auto": pb.ToolChoice.MODE_AUTO, "none": pb.ToolChoice.MODE_NONE, "required": pb.ToolChoice.MODE_REQUIRED}
# Fields that would change the answer, with the values that don't.
_NOT_HONOURED: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "audio": (),
    "functions": (),
    "function_call": (),
    "verbosity": (),
    "web_search_options": (),
    "moderation": (),
}
# Fields about accounts, prices, caches and speed: the answer is the same without them.
_PASSED_OVER = frozenset(
    {
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prediction",
        "prompt_cache_options",
        "prompt_cache_retention",
    }
)


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _as_choice(value: Any) -> Any:
    return {"type": value} if isinstance(value, str) else value


class _ToolFunction(Loose):
    name: str
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None


class _Tool(Given):
    type: Literal["function"]
    function: _ToolFunction


class _Named(Given):
    name: str


class _ToolChoice(Given):
    type: Literal["auto", "none", "required", "function"]
    function: _Named | None = None


class _JsonSchema(Loose):
    name: str
    schema_: dict[str, JsonValue] | None = Field(None, alias="schema")
    strict: bool | None = None


class _ResponseFormat(Given):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _JsonSchema | None = None


class _StreamOptions(Loose):
    include_usage: bool | None = None


class ChatCompletionRequest(Given):
    """What is left of a request once `only_honoured` has looked at the fields that aren't honoured."""

    model: Annotated[str, Field(min_length=1)]
    messages: Annotated[list[Message], Field(min_length=1)]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    tools: list[_Tool] | None = None
    tool_choice: Annotated[_ToolChoice | None, BeforeValidator(_as_choice)] = None
    parallel_tool_calls: bool | None = None
    response_format: _ResponseFormat | None = None
    max_tokens: Annotated[int, Field(ge=1, le=_INT32_MAX)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=_INT32_MAX)] | None = None
    stop: Annotated[list[str] | None, BeforeValidator(_as_list)] = None
    seed: Annotated[int, Field(**_INT64)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=1, le=_INT32_MAX)] | None = None
    """No field of OpenAI's own; the servers that speak its wire have it from vLLM."""
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=_MAX_LOGPROBS)] | None = None
    reasoning_effort: _Effort | None = None
    prompt_cache_key: Annotated[str, Field(max_length=256)] | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream tells what it consumed."""
        return bool(self.stream_options and self.stream_options.include_usage)


def only_honoured(tree: dict[str, Any]) -> dict[str, Any]:
    """See vendor_fields.only_honoured."""
    return vendor_fields.only_honoured(tree, _NOT_HONOURED, _PASSED_OVER)


def to_generate(request: ChatCompletionRequest) -> pb.GenerateRequest:
    """Return the request to the llm-proxy; raise InvalidRequest with OpenAI's names of the fields that are wrong."""
    violations: list[tuple[str, str]] = []
    asked = pb.GenerateRequest(model=request.model)
    for at, message in enumerate(request.messages):
        asked.messages.append(message_of(message, f"messages[{at}]", violations))
    for at, tool in enumerate(request.tools or ()):
        function = tool.function
        written = asked.tools.add(name=function.name, description=function.description or "", strict=function.strict)
        try:
            written.parameters.CopyFrom(struct_of(function.parameters or {}))
        except ValueError as error:
            violations.append((f"tools[{at}].function.parameters", str(error)))
    if request.tool_choice is not None:
        asked.tool_choice.CopyFrom(_tool_choice(request.tool_choice, violations))
    if request.parallel_tool_calls is not None:
        asked.parallel_tool_calls = request.parallel_tool_calls
    if request.reasoning_effort is not None:
        asked.reasoning.effort = pb.Reasoning.Effort.Value(f"EFFORT_{request.reasoning_effort.upper()}")
    if request.logprobs:
        asked.top_logprobs = request.top_logprobs or 0
    elif request.top_logprobs:
        violations.append(("top_logprobs", "needs logprobs to be true"))
    asked.prompt_cache_key = request.prompt_cache_key or ""
    if (wanted := request.response_format) is not None and wanted.type != "text":
        asked.response_format.CopyFrom(_response_format(wanted, violations))
    _set_sampling(asked.sampling, request)
    refuse(violations)
    return asked


def _tool_choice(choice: _ToolChoice, violations: list[tuple[str, str]]) -> pb.ToolChoice:
    if choice.type != "function":
        return pb.ToolChoice(mode=_MODES[choice.type])
    if choice.function is None:
        violations.append(("tool_choice.function", "is needed"))
        return pb.ToolChoice()
    return pb.ToolChoice(mode=pb.ToolChoice.MODE_NAMED, name=choice.function.name)


def _response_format(wanted: _ResponseFormat, violations: list[tuple[str, str]]) -> pb.ResponseFormat:
    if wanted.type == "json_object":
        return pb.ResponseFormat()
    if wanted.json_schema is None:
        violations.append(("response_format.json_schema", "is needed"))
        return pb.ResponseFormat()
    schema = wanted.json_schema
    written = pb.ResponseFormat(name=schema.name, strict=bool(schema.strict))
    try:
        written.schema.CopyFrom(struct_of(schema.schema_ or {}))
    except ValueError as error:
        violations.append(("response_format.json_schema.schema", str(error)))
    return written


def _set_sampling(sampling: pb.Sampling, request: ChatCompletionRequest) -> None:
    sampling.max_output_tokens = request.max_completion_tokens or request.max_tokens or 0
    sampling.stop.extend(request.stop or ())
    for name in ("temperature", "top_p", "top_k", "seed", "frequency_penalty", "presence_penalty"):
        value = getattr(request, name)
        if value is not None:
            setattr(sampling, name, value)
