"""What an agent may do, one thing at a time; test_folding holds the whole to its promise."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from agentmesh.api.llm.v1 import llm_service_pb2 as llm_pb
from agentmesh.api.runner.v1 import runner_service_pb2 as runner_pb
from agentmesh.api.task.v1 import events_pb2 as pb
from agentmesh.api.task.v1 import task_pb2
from agentmesh.api.types.v1 import types_pb2
from agentmesh.sdk import AgentError, LlmAnswer, LlmMessage, TaskContext, Thought, ToolOutcomeUnknown, tool
from agentmesh.sdk.errors import ChildFailed
from agentmesh.sdk.journal import Journal, digest_of


class FakeMesh:
    """Keeps what is said; children and answers come when the test says so."""

    def __init__(self) -> None:
        self.events: list[pb.TaskEvent] = []
        self.records: list[runner_pb.StepRecord] = []
        self.waits: list[list[str] | None] = []
        self.children: dict[str, asyncio.Future[task_pb2.Task]] = {}
        self.answers: dict[str, asyncio.Future[types_pb2.Message]] = {}
        self.spawned: list[str] = []
        self.stored: list[bytes] = []
        self.refuses = False
        self.durable = asyncio.Event()
        self.durable.set()

    async def settled(self) -> None:
        await self.durable.wait()

    async def say(self, events: Sequence[pb.TaskEvent], steps: Sequence[runner_pb.StepRecord] = ()) -> None:
        if self.refuses:
            raise AgentError("STEP_TOO_LARGE", "too large")
        self.events.extend(events)
        self.records.extend(steps)

    def generate(self, request: Any) -> Any:
        raise AssertionError("no model here")

    async def store_artifact(self, name: str, media_type: str, data: bytes) -> types_pb2.Artifact:
        self.stored.append(data)
        return types_pb2.Artifact(artifact_id=str(len(self.stored) - 1), name=name, media_type=media_type)

    async def load_artifact(self, artifact_id: str) -> tuple[types_pb2.Artifact, bytes]:
        return types_pb2.Artifact(artifact_id=artifact_id), self.stored[int(artifact_id)]

    async def spawn(self, step_key: str, spec: task_pb2.TaskSpec) -> task_pb2.Task:
        self.spawned.append(step_key)
        return task_pb2.Task(id=spec.prompt, state=pb.TASK_STATE_SUBMITTED)

    async def child_ended(self, task_id: str) -> task_pb2.Task:
        return await self.children.setdefault(task_id, asyncio.get_running_loop().create_future())

    async def input_given(self, input_id: str) -> types_pb2.Message:
        return await self.answers.setdefault(input_id, asyncio.get_running_loop().create_future())

    def waiting(self, awaited_task_ids: Sequence[str] | None) -> None:
        told = None if awaited_task_ids is None else list(awaited_task_ids)
        if not self.waits or self.waits[-1] != told:
            self.waits.append(told)


def context(mesh: FakeMesh, journal: Sequence[runner_pb.StepRecord] = ()) -> TaskContext:
    assignment = runner_pb.Assignment(task_id="t", attempt=1, journal=journal)
    return TaskContext(assignment, mesh, Journal(assignment.journal))


async def turns() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


# -- steps --------------------------------------------------------------------------------------------------


async def test_a_finished_step_is_not_run_again_in_the_next_attempt() -> None:
    first, calls = FakeMesh(), []

    def work(value: int) -> dict[str, int]:
        calls.append(value)
        return {"value": value}

    for mesh, journal in ((first, []), (FakeMesh(), first.records)):
        ctx = context(mesh, journal)
        assert [await ctx.step("work", work, n) for n in (1, 2, 1)] == [{"value": n} for n in (1, 2, 1)]
    assert calls == [1, 2, 1]


async def test_a_step_that_fails_is_not_journaled() -> None:
    mesh = FakeMesh()

    def broken() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await context(mesh).step("work", broken)
    assert mesh.records == []


async def test_a_result_above_256_kib_is_kept_as_an_artifact_and_read_from_there() -> None:
    mesh = FakeMesh()
    big = "x" * 300_000
    assert await context(mesh).step("big", lambda: big) == big
    assert (mesh.records[0].result, mesh.records[0].result_artifact_id) == (b"", "0")
    again = FakeMesh()
    again.stored = mesh.stored
    assert await context(again, mesh.records).step("big", lambda: "other") == big


@pytest.mark.parametrize(
    ("outcome", "tokens", "calls"),
    [(llm_pb.CACHE_OUTCOME_MISS, 7, 1), (llm_pb.CACHE_OUTCOME_HIT, 0, 0), (llm_pb.CACHE_OUTCOME_COALESCED, 0, 0)],
)
async def test_an_answer_that_was_cached_costs_the_task_nothing(
    outcome: "llm_pb.CacheOutcome.ValueType", tokens: int, calls: int
) -> None:
    class Answering(FakeMesh):
        async def generate(self, request: Any) -> Any:
            yield llm_pb.Delta(text="said")
            yield llm_pb.Delta(usage=types_pb2.Usage(output_tokens=7))
            yield llm_pb.Delta(finish=llm_pb.Finish(reason=llm_pb.FINISH_REASON_STOP, model="m", cache=outcome))

    mesh = Answering()
    answer = await context(mesh).llm("question")
    assert (answer.text, answer.usage["output_tokens"]) == ("said", 7)
    (usage,) = [event.usage for event in mesh.events if event.HasField("usage")]
    assert (usage.output_tokens, usage.llm_calls, usage.model) == (tokens, calls, "m")


async def test_what_a_model_thought_goes_back_with_its_calls_of_tools_in_every_attempt() -> None:
    thoughts = [llm_pb.Thought(signature="sig"), llm_pb.Thought(redacted="hidden")]
    asked: list[llm_pb.GenerateRequest] = []

    class Thinking(FakeMesh):
        async def generate(self, request: Any) -> Any:
            asked.append(request)
            yield llm_pb.Delta(reasoning="Hm.")
            for thought in thoughts:
                yield llm_pb.Delta(thought=thought)
            yield llm_pb.Delta(tool_call=llm_pb.ToolCallDelta(id="c", name="look", arguments="{}"))
            yield llm_pb.Delta(finish=llm_pb.Finish(reason=llm_pb.FINISH_REASON_TOOL_CALLS))

    async def attempt(ctx: TaskContext) -> LlmAnswer:
        turns = [LlmMessage("user", "look")]
        answer = await ctx.llm(turns, effort="high")
        results = [LlmMessage("tool", "7", tool_call_id=call.id) for call in answer.tool_calls]
        await ctx.llm([*turns, answer.as_message(), *results], effort="high")
        return answer

    mesh = Thinking()
    answer = await attempt(context(mesh))
    assert answer.thoughts == (Thought("Hm.", "sig"), Thought(redacted="hidden"))
    sent = asked[1].messages[1]
    assert list(sent.thoughts) == [llm_pb.Thought(text="Hm.", signature="sig"), thoughts[1]]
    assert [call.id for call in sent.tool_calls] == ["c"]
    assert {request.reasoning.effort for request in asked} == {llm_pb.Reasoning.EFFORT_HIGH}
    # A finished answer keeps its thoughts in the journal: the next attempt asks nobody.
    assert await attempt(context(Thinking(), mesh.records)) == answer
    assert len(asked) == 2


async def test_a_result_that_is_no_json_is_refused() -> None:
    with pytest.raises(AgentError) as refused:
        await context(FakeMesh()).step("work", object)
    assert refused.value.reason == "RESULT_NOT_JSON"


async def test_a_step_that_could_not_be_said_leaves_its_marks_to_the_next_one() -> None:
    mesh = FakeMesh()
    ctx = context(mesh)
    await ctx.emit("said before")
    mesh.refuses = True
    with pytest.raises(AgentError):
        await ctx.step("too large", lambda: 1)
    mesh.refuses = False
    await ctx.step("next", lambda: 2)
    assert [dict(record.emitted) for record in mesh.records] == [{"": 1}]


async def test_values_are_the_same_in_every_attempt() -> None:
    mesh = FakeMesh()
    seen = []
    for journal in ([], mesh.records):
        ctx = context(FakeMesh() if journal else mesh, journal)
        seen.append((await ctx.now(), await ctx.uuid(), await ctx.random(), await ctx.random()))
    assert seen[0] == seen[1]
    assert seen[0][2] != seen[0][3]


async def test_a_step_returns_when_its_record_is_durable_and_a_value_at_once() -> None:
    mesh = FakeMesh()
    ctx = context(mesh)
    mesh.durable.clear()
    await ctx.now()
    step = asyncio.create_task(ctx.step("work", asyncio.sleep, 0))
    await turns()
    assert [record.kind for record in mesh.records] == ["value", "step"]
    assert not step.done()
    mesh.durable.set()
    await step


async def test_steps_at_once_do_not_wait_for_each_others_commits() -> None:
    mesh = FakeMesh()
    ctx = context(mesh)
    mesh.durable.clear()
    gathering = asyncio.create_task(ctx.gather(*(ctx.step("work", asyncio.sleep, 0, n) for n in range(20))))
    await turns()
    assert len(mesh.records) == 20
    mesh.durable.set()
    assert await gathering == list(range(20))


async def test_a_step_that_is_given_up_while_it_becomes_durable_is_finished_all_the_same() -> None:
    mesh = FakeMesh()
    ctx = context(mesh)
    mesh.durable.clear()
    step = asyncio.create_task(ctx.step("work", asyncio.sleep, 0, "done", key="k"))
    await turns()
    step.cancel()
    await asyncio.gather(step, return_exceptions=True)
    assert await ctx.step("work", asyncio.sleep, 0, "again", key="k") == "done"


@dataclass
class Options:
    names: frozenset[str]
    hook: Callable[[], None]


_DIGEST = """
import sys
from tests.unit.sdk.test_context import Options, FakeMesh
from agentmesh.sdk.journal import digest_of
print(digest_of((FakeMesh(), Options(frozenset("abcdefgh"), FakeMesh.__init__), {"a", "b", "c"}, {"k": print})))
"""


def test_a_digest_is_the_same_in_every_process() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", _DIGEST], capture_output=True, text=True, timeout=30, check=True,
            env={"PYTHONHASHSEED": str(seed), "PYTHONPATH": ":".join(sys.path)},
        ).stdout
        for seed in (1, 2)
    }  # fmt: skip
    assert len(digests) == 1


def test_different_values_have_different_digests() -> None:
    values = [1, "1", [1], {"a": 1}, {"a": 2}, None, b"b", frozenset("ab"), frozenset("ac")]
    assert len({digest_of(value) for value in values}) == len(values)


# -- waiting ------------------------------------------------------------------------------------------------


async def test_a_question_is_asked_once_and_its_answer_taken_from_the_journal_later() -> None:
    mesh = FakeMesh()
    asking = asyncio.create_task(context(mesh).input("sure?", key="q"))
    await turns()
    (event,) = mesh.events
    assert event.state_changed.state == pb.TASK_STATE_INPUT_REQUIRED
    assert event.state_changed.input_request.input_id == "key:q"
    assert mesh.waits == [[]]
    mesh.answers["key:q"].set_result(types_pb2.Message(message_id="m"))
    assert (await asking).message_id == "m"
    assert mesh.waits == [[], None]
    record = runner_pb.StepRecord(key="key:q", result=types_pb2.Message(message_id="m").SerializeToString())
    later = FakeMesh()
    assert (await context(later, [record]).input("sure?", key="q")).message_id == "m"
    assert later.events == []


async def test_the_same_spawn_has_the_same_step_in_every_attempt_and_two_spawns_differ() -> None:
    keys = []
    for _ in range(2):
        mesh = FakeMesh()
        ctx = context(mesh)
        for prompt in ("a", "a", "b"):
            await ctx.spawn("echo", prompt)
        keys.append(mesh.spawned)
    assert keys[0] == keys[1]
    assert len(set(keys[0])) == 3


async def test_a_child_without_a_result_raises_how_it_ended() -> None:
    mesh = FakeMesh()
    child = await context(mesh).spawn("echo", "c1")
    waiting = asyncio.create_task(child.result())
    await turns()
    assert mesh.waits == [["c1"]]
    mesh.children["c1"].set_result(task_pb2.Task(id="c1", state=pb.TASK_STATE_CANCELED))
    with pytest.raises(ChildFailed) as failed:
        await waiting
    assert failed.value.state == "CANCELED"
    assert mesh.waits == [["c1"], None]


async def test_an_attempt_waits_only_while_every_branch_does() -> None:
    mesh = FakeMesh()
    ctx = context(mesh)
    work = asyncio.Event()

    async def wait_for(name: str) -> str:
        return (await (await ctx.spawn("echo", name)).result()).text

    async def busy() -> None:
        await work.wait()

    gathering = asyncio.create_task(ctx.gather(wait_for("c1"), wait_for("c2"), busy()))
    await turns()
    assert [wait for wait in mesh.waits if wait is not None] == []
    work.set()
    await turns()
    assert mesh.waits[-1] == ["c1", "c2"]
    for name in ("c1", "c2"):
        done = task_pb2.Task(id=name, state=pb.TASK_STATE_COMPLETED, result=pb.TaskResult(text=name))
        mesh.children[name].set_result(done)
    assert (await gathering)[:2] == ["c1", "c2"]
    assert mesh.waits[-1] is None


async def test_a_gather_gives_results_in_order_and_cancels_the_others_on_an_error() -> None:
    ctx = context(FakeMesh())
    assert await ctx.gather() == []
    assert await ctx.gather(asyncio.sleep(0, 1), asyncio.sleep(0, 2)) == [1, 2]
    stopped = asyncio.Event()

    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async def broken() -> None:
        await asyncio.sleep(0)
        raise AgentError("BROKEN", "broken")

    with pytest.raises(ExceptionGroup):
        await ctx.gather(slow(), broken())
    assert stopped.is_set()


# -- tools --------------------------------------------------------------------------------------------------


async def test_a_tool_shows_its_call_and_its_answer_and_runs_once() -> None:
    mesh, calls = FakeMesh(), []

    def add(a: int, b: int = 2) -> int:
        """Add."""
        calls.append((a, b))
        return a + b

    assert await context(mesh).tool(add, a=1) == 3
    assert [event.WhichOneof("payload") for event in mesh.events] == ["tool_call", "tool_result", "step_completed"]
    assert len({event.step for event in mesh.events[:2]}) == 1
    assert await context(FakeMesh(), mesh.records).tool(add, a=1) == 3
    assert calls == [(1, 2)]
    assert [record.kind for record in mesh.records] == ["intent", "tool"]


async def test_arguments_that_do_not_fit_a_tool_never_reach_it() -> None:
    mesh = FakeMesh()

    def add(a: int) -> int:
        raise AssertionError("called")

    for arguments in ({"a": "x"}, {}, {"a": 1, "b": 2}):
        with pytest.raises(ValueError, match="validation error"):
            await context(mesh).tool(add, **arguments)
    assert mesh.records == []
    assert mesh.events[1].tool_result.error.code != 0


@tool
def charge(amount: int) -> str:
    """Take money."""
    raise AssertionError("charged again")


def begun(mesh: FakeMesh) -> list[runner_pb.StepRecord]:
    """Return the journal of an attempt that was lost while its tool ran."""
    return [record for record in mesh.records if record.kind == "intent"]


async def test_a_tool_runs_only_when_it_is_durable_that_it_was_begun() -> None:
    mesh, ran = FakeMesh(), asyncio.Event()

    @tool
    def work() -> None:
        ran.set()

    mesh.durable.clear()
    calling = asyncio.create_task(context(mesh).tool(work))
    await turns()
    assert not ran.is_set()
    (intent,) = mesh.records
    assert (intent.kind, intent.key) == ("intent", mesh.events[intent.event_index].tool_call.call_id)
    mesh.durable.set()
    await calling
    assert [record.kind for record in mesh.records] == ["intent", "tool"]
    assert mesh.records[1].key == intent.key


async def test_a_tool_that_may_be_run_again_is_and_needs_no_intent() -> None:
    mesh, calls = FakeMesh(), []

    @tool(idempotent=True)
    def work() -> int:
        calls.append(1)
        return len(calls)

    assert await context(mesh).tool(work) == 1
    assert [record.kind for record in mesh.records] == ["tool"]
    guarded = runner_pb.StepRecord(key=mesh.records[0].key, kind="intent")
    assert await context(FakeMesh(), [guarded]).tool(work) == 2


async def test_a_tool_of_unknown_outcome_is_not_run_but_reported_and_the_agent_may_decide() -> None:
    first = FakeMesh()

    @tool(name="charge")
    async def lost(amount: int) -> None:
        raise asyncio.CancelledError  # as when its attempt is stopped

    with pytest.raises(asyncio.CancelledError):
        await context(first).tool(lost, amount=1)
    journal, second = begun(first), FakeMesh()
    assert journal == first.records
    read = Journal(journal)
    ctx = TaskContext(runner_pb.Assignment(task_id="t", attempt=2), second, read)
    with pytest.raises(ToolOutcomeUnknown) as unknown:
        await ctx.tool(charge, amount=1)
    assert (unknown.value.reason, unknown.value.retryable) == ("TOOL_OUTCOME_UNKNOWN", False)
    assert [event.WhichOneof("payload") for event in second.events] == ["tool_call", "tool_result"]
    assert "TOOL_OUTCOME_UNKNOWN" in str(second.events[1].tool_result.error)
    assert second.records == []
    assert read.unmatched == []

    @tool(name="charge")
    def harmless(amount: int) -> str:
        return f"charged {amount}"

    assert await ctx.tool(harmless, amount=1, key="once more") == "charged 1"


async def test_a_tool_that_failed_has_a_known_outcome_and_may_be_run_again() -> None:
    first = FakeMesh()

    @tool(name="work")
    def broken() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await context(first).tool(broken)
    assert [event.WhichOneof("payload") for event in first.events] == ["tool_call", "tool_result"]
    assert [first.events[n].tool_result.HasField("error") for n in range(2)] == [False, True]

    @tool(name="work")
    def mended() -> int:
        return 1

    assert await context(FakeMesh(), first.records).tool(mended) == 1


async def test_a_call_of_unknown_outcome_that_an_attempt_does_not_come_by_is_a_mismatch() -> None:
    intent = runner_pb.StepRecord(key="tool.charge.1", kind="intent")
    failed = runner_pb.StepRecord(key="tool.charge.1", kind="intent", result=b"why")
    done = runner_pb.StepRecord(key="tool.charge.1", kind="tool", result=b"1")
    assert Journal([intent]).unmatched == ["tool.charge.1"]
    assert Journal([intent]).find("tool.charge.1") is None
    assert Journal([intent, failed]).unmatched == []
    journal = Journal([intent, done])
    assert not journal.is_intended("tool.charge.1")
    assert journal.find("tool.charge.1") == done
