"""Reads OpenAI's chat completion requests; what can't be honoured and changes the answer is refused, not dropped."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, JsonValue

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.api.types.v1 import types_pb2
from agentmesh_gateway import media_parts, vendor_fields
from agentmesh_gateway.json_schemas import struct_of
from agentmesh_gateway.vendor_fields import Given, Loose, refuse

_INT32_MAX = 2**31 - 1
_INT64 = {"ge": -(2**63), "lt": 2**63}
_AUDIO_TYPES = {"wav": "audio/wav", "mp3": "audio/mpeg"}
_ROLES = {
    "system": pb.CHAT_ROLE_SYSTEM,
    "developer": pb.CHAT_ROLE_SYSTEM,
    "user": pb.CHAT_ROLE_USER,
    "assistant": pb.CHAT_ROLE_ASSISTANT,
    "tool": pb.CHAT_ROLE_TOOL,
}
_MODES = {"auto": pb.ToolChoice.MODE_AUTO, "none": pb.ToolChoice.MODE_NONE, "required": pb.ToolChoice.MODE_REQUIRED}
# Fields that would change the answer, with the values that don't.
_NOT_HONOURED: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "modalities": (["text"],),
    "audio": (),
    "functions": (),
    "function_call": (),
    "reasoning_effort": (),
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
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
    }
)


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _as_parts(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


def _as_choice(value: Any) -> Any:
    return {"type": value} if isinstance(value, str) else value


class _ImageUrl(Loose):
    url: str


class _InputAudio(Given):
    data: str
    format: Literal["wav", "mp3"]


class _File(Given):
    file_data: str | None = None
    filename: str = ""
    file_id: str | None = None


class _Part(Loose):
    type: Literal["text", "refusal", "image_url", "input_audio", "file"]
    text: str | None = None
    refusal: str | None = None
    image_url: _ImageUrl | None = None
    input_audio: _InputAudio | None = None
    file: _File | None = None


class _Function(Loose):
    name: str
    arguments: str


class _ToolCall(Loose):
    id: str
    type: Literal["function"] = "function"
    function: _Function


class _Message(Loose):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[list[_Part] | None, BeforeValidator(_as_parts)] = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_call_id: str = ""


class _ToolFunction(Loose):
    name: str
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None


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
    messages: Annotated[list[_Message], Field(min_length=1)]
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
        asked.messages.append(_message(message, f"messages[{at}]", violations))
    for at, tool in enumerate(request.tools or ()):
        function = tool.function
        written = asked.tools.add(name=function.name, description=function.description or "")
        try:
            written.parameters.CopyFrom(struct_of(function.parameters or {}))
        except ValueError as error:
            violations.append((f"tools[{at}].function.parameters", str(error)))
    if request.tool_choice is not None:
        asked.tool_choice.CopyFrom(_tool_choice(request.tool_choice, violations))
    if request.parallel_tool_calls is False and request.tools:
        violations.append(("parallel_tool_calls", "can't be turned off here: leave it out"))
    if (wanted := request.response_format) is not None and wanted.type != "text":
        asked.response_format.CopyFrom(_response_format(wanted, violations))
    _set_sampling(asked.sampling, request)
    refuse(violations)
    return asked


def _message(message: _Message, path: str, violations: list[tuple[str, str]]) -> pb.ChatMessage:
    written = pb.ChatMessage(role=_ROLES[message.role], tool_call_id=message.tool_call_id)
    for number, part in enumerate(message.content or ()):
        here = f"{path}.content[{number}].{part.type}"
        try:
            written.parts.append(_part(part))
        except ValueError as error:
            violations.append((here, str(error)))
    if message.refusal and not written.parts:
        written.parts.append(media_parts.text_part(message.refusal))
    for call in message.tool_calls or ():
        written.tool_calls.append(pb.ToolUse(id=call.id, name=call.function.name, arguments=call.function.arguments))
    violations.extend(_faults(message, written, path))
    return written


def _faults(message: _Message, written: pb.ChatMessage, path: str) -> Iterator[tuple[str, str]]:
    if not message.content and not written.parts and not written.tool_calls:
        yield f"{path}.content", "must hold something"
    if message.role == "tool" and not message.tool_call_id:
        yield f"{path}.tool_call_id", "must name the call that this answers"
    if message.tool_calls and message.role != "assistant":
        yield f"{path}.tool_calls", "can be the assistant's only"


def _part(part: _Part) -> types_pb2.Part:
    if part.type == "image_url" and part.image_url is not None:
        return media_parts.image_part(part.image_url.url)
    if part.type == "input_audio" and part.input_audio is not None:
        return media_parts.raw_part(part.input_audio.data, _AUDIO_TYPES[part.input_audio.format])
    if part.type == "file" and part.file is not None:
        if part.file.file_data is None:
            raise ValueError("must hold file_data: no files are kept here")
        return media_parts.data_url_part(part.file.file_data, part.file.filename)
    text = part.text if part.type == "text" else part.refusal
    if part.type not in ("text", "refusal") or text is None:
        raise ValueError("is needed")
    return media_parts.text_part(text)


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
    for name in ("temperature", "top_p", "seed"):
        value = getattr(request, name)
        if value is not None:
            setattr(sampling, name, value)
