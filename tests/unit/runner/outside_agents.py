"""Agents for host processes; loaded by their path, as an operator's would be."""

import asyncio
import os
import time
from typing import Any

from agentmesh.sdk import TaskContext, agent


@agent("polite")
async def polite(ctx: TaskContext) -> None:
    """Say the process and wait; when stopped, leave a mark in the file that the prompt names."""
    await ctx.emit(str(os.getpid()))
    try:
        await asyncio.Event().wait()
    finally:
        if ctx.prompt:
            await asyncio.to_thread(_mark, ctx.prompt)


@agent("deaf")
async def deaf(ctx: TaskContext) -> None:
    """Say the process, ask a model if there is a prompt, and block the loop for ever."""
    await ctx.emit(str(os.getpid()))
    if ctx.prompt:
        asking = asyncio.create_task(ctx.llm(ctx.prompt, key="asked"))
        await asyncio.sleep(0)  # so that the question goes first
        assert not asking.done()
        await ctx.emit("blocked from now on")
    while True:
        time.sleep(0.01)


@agent("threaded")
def threaded(ctx: Any) -> None:
    """Say the process and block a thread for ever."""
    ctx.emit(str(os.getpid()))
    while True:
        time.sleep(0.01)


@agent("short")
async def short(ctx: TaskContext) -> str:
    """Do a step and work a little longer."""
    await ctx.step("one", lambda: 1)
    await asyncio.sleep(0.4)
    return str(os.getpid())


def _mark(path: str) -> None:
    with open(path, "w") as file:
        file.write("stopped")
