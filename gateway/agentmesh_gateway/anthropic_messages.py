"""Reads Anthropic's message requests; what can't be honoured and changes the answer is refused, not dropped."""

from typing import Annotated, Any, Literal

import orjson
from pydantic import BeforeValidator, Field, JsonValue

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh_gateway import vendor_fields
from agentmesh_gateway.anthropic_blocks import Block, BlockReader, as_blocks, system_message
from agentmesh_gateway.anthropic_thinking import CacheControl, Effort, Thinking, mark_end, mark_of, set_reasoning
from agentmesh_gateway.json_schemas import struct_of
from agentmesh_gateway.vendor_fields import Given, Loose, refuse

_INT32_MAX = 2**31 - 1
_MODES = {
    "auto": pb.ToolChoice.MODE_AUTO,
    "any": pb.ToolChoice.MODE_REQUIRED,
    "tool": pb.ToolChoice.MODE_NAMED,
    "none": pb.ToolChoice.MODE_NONE,
}
# Fields that would change the answer or where it is made, with the values that don't.
_NOT_HONOURED: dict[str, tuple[Any, ...]] = {
    "container": (),
    "mcp_servers": ([],),
    "context_management": (),
    "prefill": (),
    "inference_geo": (),
    "speed": ("standard",),
}
# Fields about accounts and prices.
_PASSED_OVER = frozenset({"metadata", "service_tier", "diagnostics", "user_profile_id", "workspace_id"})


class _Message(Given):
    role: Literal["user", "assistant"]
    content: Annotated[list[Block], BeforeValidator(as_blocks), Field(min_length=1)]


class _Tool(Loose):
    type: Literal["custom"] | None = None
    name: str
    description: str | None = None
    input_schema: dict[str, JsonValue]
    strict: bool | None = None
    cache_control: CacheControl | None = None


class _ToolChoice(Given):
    type: Literal["auto", "any", "tool", "none"]
    name: str = ""
    disable_parallel_tool_use: bool | None = None


class _OutputFormat(Given):
    type: Literal["json_schema"]
    schema_: Annotated[dict[str, JsonValue], Field(alias="schema")]


class _OutputConfig(Given):
    format: _OutputFormat | None = None
    effort: Effort | None = None


class MessagesRequest(Given):
    """What is left of a request once `only_honoured` has looked at the fields that aren't."""

    model: Annotated[str, Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1, le=_INT32_MAX)]
    messages: Annotated[list[_Message], Field(min_length=1)]
    system: Annotated[list[Block] | None, BeforeValidator(as_blocks)] = None
    stream: bool | None = None
    tools: list[_Tool] | None = None
    tool_choice: _ToolChoice | None = None
    output_config: _OutputConfig | None = None
    stop_sequences: list[str] | None = None
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=1, le=_INT32_MAX)] | None = None
    thinking: Thinking | None = None
    cache_control: CacheControl | None = None


class CountTokensRequest(MessagesRequest):
    """A request of which only the length is asked for."""

    max_tokens: Annotated[int, Field(ge=1, le=_INT32_MAX)] = 1


def only_honoured(tree: dict[str, Any]) -> dict[str, Any]:
    """See vendor_fields.only_honoured."""
    return vendor_fields.only_honoured(tree, _NOT_HONOURED, _PASSED_OVER)


def to_generate(request: MessagesRequest) -> pb.GenerateRequest:
    """Return the request to the llm-proxy; raise InvalidRequest with Anthropic's names of the fields."""
    violations: list[tuple[str, str]] = []
    asked = pb.GenerateRequest(model=request.model, messages=_messages(request, violations))
    for at, tool in enumerate(request.tools or ()):
        written = asked.tools.add(name=tool.name, description=tool.description or "", strict=tool.strict)
        if tool.cache_control is not None:
            written.cache_breakpoint.CopyFrom(mark_of(tool.cache_control))
        try:
            written.parameters.CopyFrom(struct_of(tool.input_schema))
        except ValueError as error:
            violations.append((f"tools[{at}].input_schema", str(error)))
    if (choice := request.tool_choice) is not None:
        asked.tool_choice.CopyFrom(pb.ToolChoice(mode=_MODES[choice.type], name=choice.name))
        if choice.disable_parallel_tool_use:
            asked.parallel_tool_calls = False
    output = request.output_config or _OutputConfig()
    set_reasoning(asked, request.thinking, output.effort, violations)
    if output.format is not None:
        asked.response_format.strict = True
        try:
            asked.response_format.schema.CopyFrom(struct_of(output.format.schema_))
        except ValueError as error:
            violations.append(("output_config.format.schema", str(error)))
    sampling = asked.sampling
    sampling.max_output_tokens = request.max_tokens
    sampling.stop.extend(request.stop_sequences or ())
    for name in ("temperature", "top_p", "top_k"):
        if (value := getattr(request, name)) is not None:
            setattr(sampling, name, value)
    refuse(violations)
    return asked


def to_count(request: CountTokensRequest) -> pb.CountTokensRequest:
    """Return the question how long a request is; tools count as the text of their descriptions."""
    violations: list[tuple[str, str]] = []
    asked = pb.CountTokensRequest(model=request.model, messages=_messages(request, violations))
    if request.tools:
        described = orjson.dumps([tool.model_dump() for tool in request.tools]).decode()
        asked.messages.add(role=pb.CHAT_ROLE_SYSTEM).parts.add(text=described)
    refuse(violations)
    return asked


def _messages(request: MessagesRequest, violations: list[tuple[str, str]]) -> list[pb.ChatMessage]:
    written: list[pb.ChatMessage] = []
    if request.system:
        written.append(system_message(request.system, violations))
    for at, message in enumerate(request.messages):
        role = pb.CHAT_ROLE_USER if message.role == "user" else pb.CHAT_ROLE_ASSISTANT
        reader = BlockReader(role, f"messages[{at}].content", violations)
        written += reader.messages_of(message.content)
    if request.cache_control is not None and written:
        mark_end(written, request.cache_control)
    return written
