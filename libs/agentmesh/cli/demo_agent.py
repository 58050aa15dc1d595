"""The agent of `agentmesh demo --kill`: tells a story line by line, each line a journaled step, each word an event."""

import asyncio

from agentmesh.sdk import Agent, Result, TaskContext

STORY = (
    "1 A client sent a task and saw it saved.",
    "2 Every line that you read here is a step.",
    "3 A step that has ended is in the journal.",
    "4 Now the runner that speaks is killed with SIGKILL.",
    "5 Another attempt began; it did not start from line one.",
    "6 Half a line was taken back, and said again.",
    "7 No sequence number was left out or given twice.",
    "8 Now the router that carries this stream is killed.",
    "9 The runner never stopped, and this client reads on elsewhere.",
    "10 Both are back by now, and nobody had to help.",
)
_WORD_S = 0.1


class Storyteller(Agent):
    """Says STORY, a word at a time."""

    name = "storyteller"
    version = "1"
    description = "Tells what survives, while it is being killed."
    inline = True

    async def run(self, ctx: TaskContext, parameters: object) -> Result:
        """Say every line."""
        for number, line in enumerate(STORY, 1):
            await ctx.step(f"line {number}", _say, ctx, line, key=f"line-{number}")
        return Result(text=f"{len(STORY)} lines")


async def _say(ctx: TaskContext, line: str) -> None:
    words = line.split(" ")
    for word in words[:-1]:
        await ctx.emit_delta(f"{word} ")
        await asyncio.sleep(_WORD_S)
    await ctx.emit_delta(f"{words[-1]}\n")
