"""Reads requests of OpenAI's Responses API; nothing is kept here, so what would need that is refused."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, JsonValue

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh_gateway import media_parts, vendor_fields
from agentmesh_gateway.json_schemas import struct_of
from agentmesh_gateway.openai_response_items import Item, messages_of
from agentmesh_gateway.vendor_fields import Given, Loose, Violations, refuse

_INT32_MAX = 2**31 - 1
_LOGPROBS = "message.output_text.logprobs"
_MODES = {"auto": pb.ToolChoice.MODE_AUTO, "none": pb.ToolChoice.MODE_NONE, "required": pb.ToolChoice.MODE_REQUIRED}
_WHOLE_CONVERSATION = "can't be honoured: nothing is kept here, so send the whole conversation as input"
# What needs something that was kept, and what to do instead.
_NEEDS_MEMORY: Mapping[str, str] = {
    "previous_response_id": _WHOLE_CONVERSATION,
    "conversation": _WHOLE_CONVERSATION,
    "background": "can't be honoured: nothing is kept here to come back for, so stream the answer",
    "prompt": "can't be honoured: no prompts are kept here, so send its text as instructions",
}
# Fields that would change the answer, with the values that don't.
_NOT_HONOURED: dict[str, tuple[Any, ...]] = {
    "truncation": ("disabled",),
    "context_management": ([],),
    "background_options": ({},),
    "moderation": (),
    "image": ({},),
    "access_programs": ({},),
}
# Fields about accounts, prices, caches and tools that aren't there: the answer is the same without them.
_PASSED_OVER = frozenset(
    {
        "user",
        "service_tier",
        "safety_identifier",
        "prompt_cache_options",
        "prompt_cache_retention",
        "max_tool_calls",
        "stream_options",
    }
)


def _as_items(value: Any) -> Any:
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


def _as_choice(value: Any) -> Any:
    return {"type": value} if isinstance(value, str) else value


class _Tool(Loose):
    type: Literal["function"]
    name: Annotated[str, Field(min_length=1)]
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None


class _ToolChoice(Given):
    type: Literal["auto", "none", "required", "function"]
    name: str | None = None


class _Format(Loose):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema_: dict[str, JsonValue] | None = Field(None, alias="schema")
    strict: bool | None = None


class _Text(Given):
    format: _Format | None = None
    verbosity: Literal["medium"] | None = None


class _Reasoning(Given):
    """How much is thought, and whether the provider is asked to tell of it, in whatever length."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None
    mode: Literal["standard"] | None = None
    context: Literal["auto"] | None = None


_Included = Literal[
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
    "message.input_image.image_url",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
]


class ResponsesRequest(Given):
    """What is left of a request once `only_honoured` has looked at the fields that aren't honoured."""

    model: Annotated[str, Field(min_length=1)]
    input: Annotated[list[Item], Field(min_length=1), BeforeValidator(_as_items)]
    instructions: str | None = None
    stream: bool | None = None
    store: bool | None = None
    """May be asked for, and is answered with false."""
    metadata: dict[str, str] | None = None
    tools: list[_Tool] | None = None
    tool_choice: Annotated[_ToolChoice | None, BeforeValidator(_as_choice)] = None
    parallel_tool_calls: bool | None = None
    text: _Text | None = None
    reasoning: _Reasoning | None = None
    include: list[_Included] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=_INT32_MAX)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    prompt_cache_key: Annotated[str, Field(max_length=256)] | None = None


def only_honoured(tree: Mapping[str, Any]) -> dict[str, Any]:
    """See vendor_fields.only_honoured; what needs a memory is refused with what to do instead."""
    refuse([(name, text) for name, text in _NEEDS_MEMORY.items() if tree.get(name) not in (None, False)])
    bare = {name: value for name, value in tree.items() if name not in _NEEDS_MEMORY}
    return vendor_fields.only_honoured(bare, _NOT_HONOURED, _PASSED_OVER)


def to_generate(request: ResponsesRequest) -> pb.GenerateRequest:
    """Return the request to the llm-proxy; raise InvalidRequest with OpenAI's names of the fields that are wrong."""
    violations: Violations = []
    asked = pb.GenerateRequest(model=request.model, prompt_cache_key=request.prompt_cache_key or "")
    if request.instructions:
        asked.messages.add(role=pb.CHAT_ROLE_SYSTEM).parts.append(media_parts.text_part(request.instructions))
    asked.messages.extend(messages_of(request.input, violations))
    for at, tool in enumerate(request.tools or ()):
        written = asked.tools.add(name=tool.name, description=tool.description or "", strict=tool.strict)
        try:
            written.parameters.CopyFrom(struct_of(tool.parameters or {}))
        except ValueError as error:
            violations.append((f"tools[{at}].parameters", str(error)))
    if request.tool_choice is not None:
        asked.tool_choice.CopyFrom(_tool_choice(request.tool_choice, violations))
    if request.parallel_tool_calls is not None and request.tools:
        asked.parallel_tool_calls = request.parallel_tool_calls
    if request.text is not None and (wanted := request.text.format) is not None and wanted.type != "text":
        asked.response_format.CopyFrom(_response_format(wanted, violations))
    if (thinking := request.reasoning) is not None:
        if thinking.effort is not None:
            asked.reasoning.effort = pb.Reasoning.Effort.Value(f"EFFORT_{thinking.effort.upper()}")
        if thinking.summary or thinking.generate_summary:
            asked.reasoning.shown = True
    if wants_logprobs(request):
        asked.top_logprobs = request.top_logprobs or 0
    asked.sampling.max_output_tokens = request.max_output_tokens or 0
    for name in ("temperature", "top_p"):
        if (value := getattr(request, name)) is not None:
            setattr(asked.sampling, name, value)
    refuse(violations)
    return asked


def wants_logprobs(request: ResponsesRequest) -> bool:
    """Return whether an answer is to tell how likely its tokens were."""
    return bool(request.top_logprobs) or _LOGPROBS in (request.include or ())


def _tool_choice(choice: _ToolChoice, violations: Violations) -> pb.ToolChoice:
    if choice.type != "function":
        return pb.ToolChoice(mode=_MODES[choice.type])
    if not choice.name:
        violations.append(("tool_choice.name", "is needed"))
    return pb.ToolChoice(mode=pb.ToolChoice.MODE_NAMED, name=choice.name or "")


def _response_format(wanted: _Format, violations: Violations) -> pb.ResponseFormat:
    if wanted.type == "json_object":
        return pb.ResponseFormat()
    if not wanted.name:
        violations.append(("text.format.name", "is needed"))
    written = pb.ResponseFormat(name=wanted.name or "", strict=bool(wanted.strict))
    try:
        written.schema.CopyFrom(struct_of(wanted.schema_ or {}))
    except ValueError as error:
        violations.append(("text.format.schema", str(error)))
    return written
