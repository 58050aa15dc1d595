"""Agents that tests give to a mesh, one for each thing that an agent can do."""

import asyncio
import os
import time
from typing import Any

from pydantic import BaseModel, ConfigDict

from agentmesh.sdk import Agent, AgentError, Rejected, Result, TaskContext, agent, tool


class Seconds(BaseModel):
    """How long to take."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds: float = 30


@agent("asker", description="Asks a name and greets it.")
async def asker(ctx: TaskContext) -> str:
    await ctx.emit("before")
    answer = await ctx.input("What is your name?")
    return f"hello {answer.parts[0].text}"


@agent("parent", description="Lets three children work at once.")
async def parent(ctx: TaskContext) -> Result:
    async def one(number: int) -> str:
        child = await ctx.spawn("echo", f"child {number}")
        return (await child.result()).text

    return Result(text=" ".join(await ctx.gather(*(one(number) for number in range(3)))))


@agent("slow_parent", description="Waits for a child that takes long.", parameters=Seconds)
async def slow_parent(ctx: TaskContext, parameters: Seconds) -> str:
    child = await ctx.spawn("echo", "late", {"delay_ms": parameters.seconds * 1000})
    return (await child.result()).text


@agent("blocker", description="Blocks its process.", parameters=Seconds)
def blocker(ctx: Any, parameters: Seconds) -> str:
    ctx.emit(f"blocking in {os.getpid()}")
    end = time.monotonic() + parameters.seconds
    while time.monotonic() < end:
        time.sleep(0.01)
    return "done"


@agent("dier", description="Kills its own process in its first attempt.")
async def dier(ctx: TaskContext) -> str:
    await ctx.step("before", lambda: 1)
    if ctx.attempt == 1:
        await asyncio.sleep(0.2)
        os._exit(7)
    return f"attempt {ctx.attempt}"


@agent("rejecter", description="Takes no task.")
async def rejecter(ctx: TaskContext) -> str:
    raise Rejected("NOT_MINE", "this agent takes nothing")


@agent("loser", description="Fails for good.")
async def loser(ctx: TaskContext) -> str:
    raise AgentError("LOST", "there is nothing to be won")


@agent("buggy", description="Has a bug whose text is a secret.")
async def buggy(ctx: TaskContext) -> str:
    raise ValueError("canary-secret-in-an-exception")


async def cancel_itself(ctx: TaskContext) -> str:
    work = asyncio.create_task(asyncio.sleep(60))
    work.cancel()
    await work
    return "never"


@agent("self_canceler", description="Lets a CancelledError out.")
async def self_canceler(ctx: TaskContext) -> str:
    return await cancel_itself(ctx)


@agent("inline_self_canceler", description="Lets a CancelledError out, in the runner's process.", inline=True)
async def inline_self_canceler(ctx: TaskContext) -> str:
    return await cancel_itself(ctx)


@agent("exiter", description="Calls exit.", inline=True)
async def exiter(ctx: TaskContext) -> str:
    raise SystemExit(3)


@agent("namer", description="Gives an artifact a name that is none.")
async def namer(ctx: TaskContext) -> str:
    await ctx.artifact("a\x00b\n", b"y")
    return "never"


@tool
def add(left: int, right: int) -> int:
    """Add two numbers."""
    return left + right


@agent("journalist", description="Uses everything that is journaled.", inline=True)
async def journalist(ctx: TaskContext) -> Result:
    values = {
        "now": (await ctx.now()).isoformat(),
        "uuid": str(await ctx.uuid()),
        "random": await ctx.random(),
        "sum": await ctx.tool(add, left=2, right=3),
        "pid": await ctx.step("pid", os.getpid),
    }
    await ctx.artifact("notes.txt", "some notes")
    if ctx.attempt == 1:
        raise AgentError("AGAIN", "once more", retryable=True)
    return Result(text="ok", data=values)


@agent("traveller", description="Goes everywhere: a tool, a step, a model, a child.")
async def traveller(ctx: TaskContext) -> str:
    await ctx.tool(add, left=2, right=3)
    await ctx.step("pid", os.getpid)
    answer = await ctx.llm("Rivers carry water.")
    child = await ctx.spawn("echo", "from below")
    return f"{answer.text} {(await child.result()).text}"


@agent("reader", description="Reads its files and its history.")
async def reader(ctx: TaskContext) -> Result:
    files = [{"name": f.name, "size": len(f.data), "type": f.media_type} for f in await ctx.files()]
    history = [part.text for message in ctx.history for part in message.parts]
    return Result(text=ctx.prompt, data={"files": files, "history": history})


class Sleeper(Agent):
    """Sleeps inline, politely."""

    name = "sleeper"
    description = "Sleeps."
    inline = True
    Parameters = Seconds

    async def run(self, ctx: TaskContext, parameters: Seconds) -> str:
        """Sleep."""
        await ctx.emit("sleeping")
        await asyncio.sleep(parameters.seconds)
        return "slept"
