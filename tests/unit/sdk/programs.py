"""Random agents, and the shortest real path from what they say to a log and back: runner, router, ledger."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from agentmesh.api.llm.v1 import llm_service_pb2 as llm_pb
from agentmesh.api.runner.v1 import runner_service_pb2 as runner_pb
from agentmesh.api.storage.v1 import task_store_service_pb2 as storage_pb
from agentmesh.api.task.v1 import events_pb2 as pb
from agentmesh.api.types.v1 import types_pb2
from agentmesh.sdk import Agent, TaskContext, Tool, ToolOutcomeUnknown, tool
from agentmesh_router import outcomes
from agentmesh_router.domain import RetryPolicy
from agentmesh_runner.attempt_log import AttemptLog
from agentmesh_runner.execution import execute
from agentmesh_storage import domain as d
from agentmesh_storage import leases, wire
from agentmesh_storage.ledger import Ledger
from agentmesh_storage.rules import Rules

TASK = "t1"
Program = list[tuple[str, Any]]

_LEAVES = st.sampled_from(["emit", "delta", "tick", "llm", "now", "tool"]).map(lambda kind: (kind, None))


def _grown(children: Any) -> Any:
    programs = st.lists(children, max_size=4)
    steps = programs.map(lambda inside: ("step", inside))
    return steps | st.lists(programs, min_size=1, max_size=3).map(lambda branches: ("gather", branches))


PROGRAMS: st.SearchStrategy[Program] = st.lists(st.recursive(_LEAVES, _grown, max_leaves=8), max_size=6)


class Interpreter(Agent):
    """Runs a program; every text that it says is different, so that each can be counted.

    `tool_runs` counts how often the tool of each line ran.
    """

    name = "interpreter"
    inline = True

    def __init__(self, program: Program, tool_runs: Counter[str]) -> None:
        self._program = program

        @tool
        async def mark(path: str) -> str:
            tool_runs[path] += 1
            await asyncio.sleep(0)
            return path

        self._mark: Tool = mark

    async def run(self, ctx: TaskContext, parameters: Any) -> str:
        await self._do(ctx, self._program, "")
        return "done"

    async def _do(self, ctx: TaskContext, program: Program, path: str) -> None:
        for number, (kind, inside) in enumerate(program):
            here = f"{path}/{number}"
            if kind == "emit":
                await ctx.emit(here)
            elif kind == "delta":
                await ctx.emit_delta(here)
            elif kind == "tick":
                await asyncio.sleep(0)
            elif kind == "llm":
                await ctx.llm(here)
            elif kind == "tool":
                with contextlib.suppress(ToolOutcomeUnknown):
                    await ctx.tool(self._mark, path=here)
                await ctx.emit(here)
            elif kind == "now":
                await ctx.now()
            elif kind == "step":
                await ctx.step("work", self._in_step, ctx, inside, here)
            else:
                await ctx.gather(*(self._do(ctx, branch, f"{here}.{n}") for n, branch in enumerate(inside)))

    async def _in_step(self, ctx: TaskContext, program: Program, path: str) -> str:
        await self._do(ctx, program, path)
        return path


def said_by(program: Program, path: str = "") -> list[str]:
    """Return every text that a program says, in the order of its lines."""
    texts: list[str] = []
    for number, (kind, inside) in enumerate(program):
        here = f"{path}/{number}"
        if kind in ("emit", "delta", "tool"):
            texts.append(here)
        elif kind == "llm":
            texts.extend((f"{here}<", f"{here}>"))
        elif kind == "step":
            texts.extend(said_by(inside, here))
        elif kind == "gather":
            for n, branch in enumerate(inside):
                texts.extend(said_by(branch, f"{here}.{n}"))
    return texts


@dataclass
class LogMesh:
    """The mesh of one attempt: what is said goes into a real AttemptLog, models answer in two pieces."""

    log: AttemptLog
    prompts: list[str] = field(default_factory=list)

    async def say(self, events: Sequence[pb.TaskEvent], steps: Sequence[runner_pb.StepRecord] = ()) -> None:
        await self.log.say(events, steps)

    async def settled(self) -> None:
        await self.log.settled()

    async def generate(self, request: llm_pb.GenerateRequest) -> AsyncGenerator[llm_pb.Delta, None]:
        prompt = request.messages[0].parts[0].text
        self.prompts.append(prompt)
        yield llm_pb.Delta(text=f"{prompt}<")
        await asyncio.sleep(0)
        yield llm_pb.Delta(text=f"{prompt}>")
        yield llm_pb.Delta(finish=llm_pb.Finish(reason=llm_pb.FINISH_REASON_STOP, model="m"))

    async def store_artifact(self, name: str, media_type: str, data: bytes) -> types_pb2.Artifact:
        raise AssertionError("programs make no artifacts")

    async def load_artifact(self, artifact_id: str) -> tuple[types_pb2.Artifact, bytes]:
        raise AssertionError("programs load no artifacts")

    async def spawn(self, step_key: str, spec: Any) -> Any:
        raise AssertionError("programs spawn nothing")

    async def child_ended(self, task_id: str) -> Any:
        raise AssertionError("programs spawn nothing")

    async def input_given(self, input_id: str) -> types_pb2.Message:
        raise AssertionError("programs ask nothing")

    def waiting(self, awaited_task_ids: Sequence[str] | None) -> None:
        pass


class Storage:
    """A ledger with one task, fed through the same checks as in the router, and the world that tools change."""

    def __init__(self) -> None:
        self.ledger = Ledger(now_ms=1_000_000, rules=Rules(max_losses=100))
        self.tool_runs: Counter[str] = Counter()
        self._lives = 0
        self._standing = outcomes.Standing("acme", RetryPolicy(3, 1.0, 1.0), 0)
        task = d.Task(id=TASK, tenant="acme", agent="interpreter", spec=b"", create_ms=0)
        self.ledger.apply(d.Mutation("acme", d.CreateTask(task, {})))
        self.task = self.ledger.tasks[TASK]

    def start(self) -> runner_pb.Assignment:
        """Take the task from whoever had it and start the next attempt."""
        if self.task.incarnation:
            leases.lose(self.ledger, self.task)
        self._lives += 1
        self.ledger.start_attempt(self.task, d.Claim(f"runner~{self._lives}", "1"))
        return runner_pb.Assignment(task_id=TASK, attempt=self.task.attempt, tenant="acme", journal=self.journal())

    def journal(self) -> list[runner_pb.StepRecord]:
        """Return the steps that are finished."""
        return [wire.to_step(step) for step in self.ledger.steps]

    def commit(self, batch: runner_pb.EventBatch) -> None:
        """Commit what an attempt sent."""
        mutation = storage_pb.Mutation(tenant="acme")
        outcomes.fill_append(mutation.append, batch, self._standing, self.ledger.now_ms)
        outcome = self.ledger.apply(wire.from_mutation(mutation, ""))
        assert isinstance(outcome, d.Outcome), outcome

    def log(self) -> list[tuple[int, int, pb.TaskEvent]]:
        """Return (sequence, attempt, event) of everything."""
        return [
            (chunk.first_sequence + position, chunk.attempt, event)
            for chunk in self.ledger.chunks
            for position, event in enumerate(pb.EventList.FromString(chunk.events).events)
        ]


@dataclass
class Life:
    """What one attempt did: how often storage committed, and the prompts that were paid for."""

    commits: int = 0
    prompts: list[str] = field(default_factory=list)


def live(program: Program, storage: Storage, *, dies_after: int | None = None, lag: int = 0) -> Life:
    """Run an attempt against storage, to its end or until it dies after so many commits.

    Storage is slow: it commits one group, `lag` turns of the loop after it could.
    """
    return asyncio.run(_live(program, storage, storage.start(), dies_after, lag))


async def _live(
    program: Program, storage: Storage, assignment: runner_pb.Assignment, dies_after: int | None, lag: int
) -> Life:
    log = AttemptLog(TASK, assignment.attempt)
    mesh = LogMesh(log)
    life = Life(prompts=mesh.prompts)

    async def work() -> None:
        log.end(await execute(Interpreter(program, storage.tool_runs), assignment, mesh))

    working = asyncio.create_task(work())
    while not log.confirmed:
        for _ in range(lag + 1):
            await asyncio.sleep(0)
        batch = log.take(0)
        if batch is None:
            continue
        if dies_after is not None and (life.commits == dies_after or batch.HasField("outcome")):
            break
        storage.commit(batch)
        events = len(pb.EventList.FromString(batch.events).events)
        log.ack(batch.first_offset + events + batch.HasField("outcome"))
        life.commits += 1
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    return life
