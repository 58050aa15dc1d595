import asyncio
from collections.abc import Awaitable

import pytest

from agentmesh.api.runner.v1 import runner_service_pb2 as runner_pb
from agentmesh.api.task.v1 import events_pb2 as pb
from agentmesh.api.task.v1 import task_pb2
from agentmesh.api.types.v1 import types_pb2
from agentmesh.kit.errors import InvalidRequest, NotFound, to_status
from agentmesh_runner.session import Session
from tests.unit.runner.attempts import running

SPEC = task_pb2.TaskSpec(agent="echo", prompt="x")


async def begun(work: Awaitable[task_pb2.Task]) -> "asyncio.Task[task_pb2.Task]":
    task = asyncio.ensure_future(work)
    await asyncio.sleep(0)
    return task


def child(state: pb.TaskState.ValueType) -> task_pb2.Task:
    return task_pb2.Task(id="c1", state=state)


async def test_a_spawn_is_asked_and_answered_by_its_step() -> None:
    attempt = running(Session("r"))
    asked = await begun(attempt.spawn("s1", SPEC))
    assert [(spawn.step_key, spawn.spec) for spawn in attempt.spawns] == [("s1", SPEC)]
    attempt.told_of_child(runner_pb.ChildUpdate(step_key="s1", child=child(pb.TASK_STATE_SUBMITTED)))
    assert (await asked).id == "c1"


async def test_a_refused_spawn_raises_why() -> None:
    attempt = running(Session("r"))
    asked = await begun(attempt.spawn("s1", SPEC))
    error = to_status(NotFound("there is no such agent", reason="AGENT_NOT_FOUND"))
    attempt.told_of_child(runner_pb.ChildUpdate(step_key="s1", error=error))
    with pytest.raises(NotFound):
        await asked


async def test_a_child_that_no_message_can_hold_is_refused_before_it_is_asked_for() -> None:
    attempt = running(Session("r"))
    with pytest.raises(InvalidRequest) as refused:
        await attempt.spawn("s1", task_pb2.TaskSpec(agent="echo", prompt="x" * 1_100_000))
    assert refused.value.reason == "SPAWN_TOO_LARGE"
    assert attempt.spawns == []


@pytest.mark.parametrize("early", [True, False])
async def test_a_childs_end_is_heard_whether_it_comes_before_or_after_the_wait(early: bool) -> None:
    attempt = running(Session("r"))
    update = runner_pb.ChildUpdate(child=child(pb.TASK_STATE_FAILED))
    if early:
        attempt.told_of_child(update)
    waiting = await begun(attempt.child_ended("c1"))
    attempt.told_of_child(update)
    assert (await waiting).state == pb.TASK_STATE_FAILED


async def test_a_replayed_spawn_of_an_ended_child_tells_its_end_too() -> None:
    attempt = running(Session("r"))
    asked = await begun(attempt.spawn("s1", SPEC))
    attempt.told_of_child(runner_pb.ChildUpdate(step_key="s1", child=child(pb.TASK_STATE_COMPLETED)))
    await asked
    assert (await attempt.child_ended("c1")).state == pb.TASK_STATE_COMPLETED


@pytest.mark.parametrize("early", [True, False])
async def test_an_answer_is_heard_whether_it_comes_before_or_after_the_wait(early: bool) -> None:
    attempt = running(Session("r"))
    delivery = runner_pb.DeliverInput(input_id="q", message=types_pb2.Message(message_id="m"))
    if early:
        attempt.told_input(delivery)
    waiting = asyncio.ensure_future(attempt.input_given("q"))
    await asyncio.sleep(0)
    attempt.told_input(delivery)
    assert (await waiting).message_id == "m"


async def test_a_new_router_is_asked_again_for_what_the_old_one_may_not_have_heard() -> None:
    attempt = running(Session("r"))
    answered = await begun(attempt.spawn("s1", SPEC))
    attempt.told_of_child(runner_pb.ChildUpdate(step_key="s1", child=child(pb.TASK_STATE_SUBMITTED)))
    await answered
    open_one = await begun(attempt.spawn("s2", SPEC))
    attempt.waiting([])
    attempt.spawns.clear()
    attempt.waiting_news = None
    attempt.resume()
    attempt.resume()
    assert [spawn.step_key for spawn in attempt.spawns] == ["s2"]
    assert attempt.waiting_news is True
    open_one.cancel()


async def test_an_attempt_is_stopped_once_and_not_after_its_end() -> None:
    attempt = running(Session("r"))
    attempt.task = asyncio.create_task(asyncio.sleep(60))
    attempt.stop(runner_pb.StopAttempt.REASON_DEADLINE)
    attempt.stop(runner_pb.StopAttempt.REASON_CANCELED)
    assert attempt.stop_reason == runner_pb.StopAttempt.REASON_DEADLINE
    with pytest.raises(asyncio.CancelledError):
        await attempt.task
    ended = running(Session("r"))
    ended.task = asyncio.create_task(asyncio.sleep(0))
    ended.end(runner_pb.Outcome(canceled=runner_pb.Outcome.Canceled()))
    ended.stop(runner_pb.StopAttempt.REASON_CANCELED)
    await ended.task
    assert ended.stop_reason == 0
