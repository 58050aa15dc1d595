"""Nothing runs or costs past the end of an attempt: deadlines shrink on the way down, calls in flight are stopped."""

import asyncio

import pytest

from agentmesh.api.llm.v1 import llm_service_pb2 as llm_pb
from agentmesh.api.runner.v1 import runner_service_pb2 as runner_pb
from agentmesh.api.task.v1 import task_pb2
from agentmesh.kit.clock import duration, to_ms
from agentmesh.kit.errors import Unavailable, Unreachable, from_status
from agentmesh.sdk import TaskContext, agent
from tests.unit.runner.attempts import Router, Runner, turns

Stop = runner_pb.StopAttempt
CALL = "t1/key:q"


@agent("failing", inline=True)
async def failing(ctx: TaskContext) -> None:
    """Fail while a model is still asked."""

    async def fail() -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        raise ValueError("failed")

    await ctx.gather(ctx.llm("well?", key="q"), fail())


@agent("stubborn", inline=True)
async def stubborn(ctx: TaskContext) -> None:
    """Ask a model, and again when stopped."""
    try:
        await asyncio.Event().wait()
    finally:
        await ctx.llm("well?", key="q")


@agent("parent", inline=True)
async def parent(ctx: TaskContext) -> None:
    """Spawn a child."""
    await ctx.spawn("echo")


async def asking(agent: str = "thinker", **fields: object) -> tuple[Runner, Router]:
    """Return a runner whose attempt t1 runs, and its router."""
    runner = Runner(failing, stubborn, parent)
    router = runner.connect("a")
    router.assign("t1", agent=agent, **fields)
    await turns()
    return runner, router


def stop(router: Router, reason: Stop.Reason.ValueType) -> None:
    router.say(stops=[Stop(task_id="t1", attempt=1, reason=reason)])


async def test_a_model_call_gets_no_more_time_than_its_task_has_left() -> None:
    runner, _ = await asking(time_left=duration(90))
    assert runner.models.asked == {CALL: 90}
    forever, _ = await asking()
    assert forever.models.asked == {CALL: 3600}


async def test_an_attempt_whose_time_is_up_is_stopped_for_good_and_its_call_with_it() -> None:
    runner, router = await asking(time_left=duration(5))
    runner.time += 4.9
    runner.service.look()
    await turns()
    assert router.outcomes == {}
    runner.time += 0.1
    runner.service.look()
    await turns()
    outcome = router.outcomes["t1"]
    assert (from_status(outcome.failed).reason, outcome.non_retryable) == ("TASK_TIMEOUT", True)
    assert runner.models.canceled == [CALL]


async def test_a_timeout_that_the_agents_own_loop_feels_stops_its_call_too() -> None:
    runner, router = await asking(time_left=duration(0.01))
    while "t1" not in router.outcomes:
        await asyncio.sleep(0.005)
    await turns()
    assert from_status(router.outcomes["t1"].failed).reason == "TASK_TIMEOUT"
    assert runner.models.canceled == [CALL]


@pytest.mark.parametrize(("reason", "kind"), [(Stop.REASON_CANCELED, "canceled"), (Stop.REASON_DEADLINE, "failed")])
async def test_a_router_that_stops_an_attempt_stops_its_call(reason: Stop.Reason.ValueType, kind: str) -> None:
    runner, router = await asking()
    stop(router, reason)
    await turns()
    assert router.outcomes["t1"].WhichOneof("kind") == kind
    assert runner.models.canceled == [CALL]


async def test_an_attempt_that_fails_or_idles_stops_its_call() -> None:
    runner, router = await asking("failing")
    assert router.outcomes["t1"].HasField("failed")
    assert runner.models.canceled == [CALL]
    idle, idle_router = await asking()
    attempt = idle_router.session.attempts["t1"]
    attempt.assignment.spec.idle_timeout.CopyFrom(duration(3))
    idle.time += 4
    idle.service.look()
    await turns()
    assert from_status(idle_router.outcomes["t1"].failed).reason == "IDLE_TIMEOUT"
    assert idle.models.canceled == [CALL]


async def test_an_attempt_that_another_goes_on_with_leaves_its_call_to_be_joined() -> None:
    stale, router = await asking()
    stop(router, Stop.REASON_STALE)
    lost, _ = await asking()
    lost.time += 100
    lost.service.look()
    drained, drained_router = await asking()
    drained_router.renew(0)
    draining = asyncio.create_task(drained.service.drain(0))
    await turns()
    assert drained_router.outcomes["t1"].HasField("released")
    drained_router.renew(1)
    drained_router.say(acks=[runner_pb.AckedOffset(task_id="t1", attempt=1, offset=1)])
    await draining
    assert [runner.models.canceled for runner in (stale, lost, drained)] == [[], [], []]


async def test_an_attempt_that_is_being_stopped_begins_no_call() -> None:
    runner, router = await asking("stubborn")
    stop(router, Stop.REASON_CANCELED)
    await turns()
    assert router.outcomes["t1"].HasField("canceled")
    assert runner.models.asked == {}


async def test_an_answered_call_is_not_canceled_at_the_end() -> None:
    runner, router = await asking()
    runner.models.answering.set()
    await turns()
    router.say(acks=[runner_pb.AckedOffset(task_id="t1", attempt=1, offset=2)])
    await turns()
    assert router.outcomes["t1"].HasField("completed")
    assert runner.models.canceled == []


@pytest.mark.parametrize(("error", "stopped"), [(Unavailable("no"), []), (Unreachable("nobody"), ["k"])])
async def test_a_call_that_may_go_on_where_nobody_can_be_reached_is_stopped_too(
    error: Unavailable, stopped: list[str]
) -> None:
    runner, router = await asking()
    attempt = router.session.attempts["t1"]
    runner.models.answering.set()
    runner.models.error = error
    with pytest.raises(Unavailable):
        await anext(attempt.generate(llm_pb.GenerateRequest(idempotency_key="k")))
    await attempt.stop_calls()
    assert [key for key in runner.models.canceled if key == "k"] == stopped


async def test_silence_counts_only_once_everything_said_is_durable() -> None:
    runner, router = await asking()
    attempt = router.session.attempts["t1"]
    attempt.assignment.spec.idle_timeout.CopyFrom(duration(3))
    runner.models.answering.set()
    await turns()
    runner.time += 10
    runner.service.look()
    await turns()
    assert router.outcomes == {}, "the agent waits for storage"


@pytest.mark.parametrize(("asked", "given"), [(None, 8000), (60, 8000), (5, 5000)])
async def test_a_child_gets_no_more_time_than_its_parent_has_left(asked: float | None, given: int) -> None:
    runner, router = await asking("parent", time_left=duration(10))
    attempt = router.session.attempts["t1"]
    runner.time += 2
    spec = task_pb2.TaskSpec(agent="echo", timeout=None if asked is None else duration(asked))
    spawning = asyncio.create_task(attempt.spawn("s", spec))
    await turns()
    spawned = [spawn for message in router.heard for spawn in message.spawns]
    assert [to_ms(spawn.spec.timeout) for spawn in spawned] == [10_000, given]
    assert spec.HasField("timeout") == (asked is not None), "the agent's own spec stays as it is"
    spawning.cancel()
