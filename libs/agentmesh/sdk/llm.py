"""Conversations with models, in plain types."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from agentmesh.api.llm.v1 import llm_service_pb2 as pb
from agentmesh.api.types.v1 import types_pb2
from agentmesh.sdk.agent import to_struct
from agentmesh.sdk.tools import Tool

_ROLES = {
    "system": pb.CHAT_ROLE_SYSTEM,
    "user": pb.CHAT_ROLE_USER,
    "assistant": pb.CHAT_ROLE_ASSISTANT,
    "tool": pb.CHAT_ROLE_TOOL,
}


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A call of a tool by the model; `arguments` is the JSON text that it wrote."""

    id: str
    name: str
    arguments: str


Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


@dataclass(frozen=True, slots=True)
class Thought:
    """A piece of a model's reasoning; `signature` and `redacted` are the provider's own writing, and go back as is."""

    text: str = ""
    signature: str = ""
    redacted: str = ""
    id: str = ""


@dataclass(frozen=True, slots=True)
class LlmMessage:
    """One turn. `images` are bytes with their media type, `thoughts` the assistant's."""

    role: Literal["system", "user", "assistant", "tool"]
    text: str
    images: tuple[tuple[bytes, str], ...] = ()
    tool_calls: tuple[ToolUse, ...] = ()
    tool_call_id: str = ""
    thoughts: tuple[Thought, ...] = ()

    def to_wire(self) -> pb.ChatMessage:
        """Write the turn as the contract has it."""
        parts = [types_pb2.Part(text=self.text)] if self.text else []
        parts.extend(types_pb2.Part(raw=data, media_type=media_type) for data, media_type in self.images)
        calls = [pb.ToolUse(id=c.id, name=c.name, arguments=c.arguments) for c in self.tool_calls]
        return pb.ChatMessage(
            role=_ROLES[self.role],
            parts=parts,
            tool_calls=calls,
            tool_call_id=self.tool_call_id,
            thoughts=[
                pb.Thought(text=t.text, signature=t.signature, redacted=t.redacted, id=t.id) for t in self.thoughts
            ],
        )


@dataclass(frozen=True, slots=True)
class LlmAnswer:
    """What a model answered. `usage` counts input_tokens and output_tokens."""

    text: str
    model: str
    provider: str
    finish_reason: str
    usage: dict[str, int] = field(default_factory=dict)
    reasoning: str = ""
    tool_calls: tuple[ToolUse, ...] = ()
    thoughts: tuple[Thought, ...] = ()

    def as_message(self) -> LlmMessage:
        """Return the answer as the turn that the next question goes on from, before the answers of its tools.

        Models that think are shown what they thought: some refuse to go on without it.
        """
        return LlmMessage("assistant", self.text, tool_calls=self.tool_calls, thoughts=self.thoughts)


def build_request(
    prompt: str | Sequence[LlmMessage],
    *,
    system: str,
    model: str,
    max_output_tokens: int,
    temperature: float | None,
    seed: int | None,
    stop: Sequence[str],
    tools: Sequence[Tool],
    response_schema: dict[str, Any] | None,
    effort: Effort | None = None,
) -> pb.GenerateRequest:
    """Write a call as the contract has it, without its key."""
    messages = [LlmMessage("user", prompt)] if isinstance(prompt, str) else list(prompt)
    if system:
        messages.insert(0, LlmMessage("system", system))
    request = pb.GenerateRequest(
        model=model,
        messages=[message.to_wire() for message in messages],
        sampling=pb.Sampling(temperature=temperature, max_output_tokens=max_output_tokens, seed=seed, stop=stop),
        tools=[pb.Tool(name=t.name, description=t.description, parameters=to_struct(t.parameters)) for t in tools],
    )
    if effort is not None:
        request.reasoning.effort = pb.Reasoning.Effort.Value(f"EFFORT_{effort.upper()}")
    if response_schema is not None:
        request.response_format.CopyFrom(
            pb.ResponseFormat(name="answer", schema=to_struct(response_schema), strict=True)
        )
    return request


def from_response(response: pb.GenerateResponse) -> LlmAnswer:
    """Read an answer in plain types."""
    reason = pb.FinishReason.Name(response.finish_reason).removeprefix("FINISH_REASON_").lower()
    return LlmAnswer(
        text="".join(part.text for part in response.message.parts),
        model=response.model,
        provider=response.provider,
        finish_reason=reason,
        usage={"input_tokens": response.usage.input_tokens, "output_tokens": response.usage.output_tokens},
        reasoning=response.reasoning,
        tool_calls=tuple(ToolUse(c.id, c.name, c.arguments) for c in response.message.tool_calls),
        thoughts=tuple(Thought(t.text, t.signature, t.redacted, t.id) for t in response.message.thoughts),
    )
