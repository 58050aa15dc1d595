"""The agent that probes, benchmarks and tests run: it says what it was told, as often as it was told."""

import asyncio
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from agentmesh.sdk import Agent, AgentError, Result, Skill, TaskContext


class EchoParameters(BaseModel):
    """What to say, how often, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: int = Field(default=1, ge=0, le=1_000_000, description="How many messages to say.")
    steps: bool = Field(default=False, description="Make each message a journaled step, so that none is said twice.")
    mode: Literal["message", "delta"] = Field(default="message", description="Whole messages, or text deltas.")
    size: int = Field(default=0, ge=0, le=200_000, description="Length of each message in bytes; 0: the prompt.")
    delay_ms: float = Field(default=0, ge=0, le=600_000, description="Wait before each message, in milliseconds.")
    llm_calls: int = Field(default=0, ge=0, le=100, description="LLM steps to do first.")
    model: str = Field(default="", description="Model of the LLM steps; the default model if empty.")
    fail_at: int = Field(default=-1, ge=-1, description="Fail before this message, counted from 0, in each attempt.")


class Echo(Agent):
    """Says the prompt back."""

    name = "echo"
    version = "1"
    description = "Says the prompt back; for probes, benchmarks and tests."
    skills = (Skill("echo", "Echo", "Says the prompt back.", ("hello",)),)
    inline = True
    Parameters = EchoParameters

    async def run(self, ctx: TaskContext, parameters: EchoParameters) -> Result:
        """Say `count` messages."""
        for number in range(parameters.llm_calls):
            await ctx.llm(ctx.prompt or "hello", model=parameters.model, name=f"call-{number}", stream=False)
        text = (ctx.prompt or "hello")[: parameters.size or None]
        if parameters.size:
            text = (text * (parameters.size // len(text) + 1))[: parameters.size]
        say: Any = ctx.emit if parameters.mode == "message" else ctx.emit_delta
        for number in range(parameters.count):
            if number == parameters.fail_at:
                raise AgentError("ECHO_FAILED", "failed as it was told to", retryable=True)
            if parameters.delay_ms:
                await asyncio.sleep(parameters.delay_ms / 1000)
            if parameters.steps:
                await ctx.step("message", _say_once, say, text, key=f"message-{number}")
            else:
                await say(text)
        return Result(text=text if parameters.count else "")


async def _say_once(say: Any, text: str) -> None:
    await say(text)
