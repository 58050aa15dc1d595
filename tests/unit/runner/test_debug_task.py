"""ExecuteTask runs a task with nobody to store it: what waits for storage must not wait for ever."""

from typing import Any

from agentmesh.api.runner.v1 import runner_service_pb2 as runner_pb
from agentmesh.api.task.v1 import events_pb2 as pb
from agentmesh.api.task.v1 import task_pb2
from agentmesh.kit.auth import Keyring
from agentmesh.sdk import TaskContext, agent
from agentmesh_runner.grpc_api import RunnerApi
from tests.unit.runner.attempts import Runner


@agent("stepper", inline=True)
async def stepper(ctx: TaskContext) -> str:
    """Do two steps and say something between."""
    first = await ctx.step("first", lambda: 1)
    await ctx.emit("between")
    return str(first + await ctx.step("second", lambda: 2))


class NoCall:
    """What a handler reads of its call."""

    traceparent = ""


async def test_a_task_with_steps_runs_to_its_end_and_needs_no_lease() -> None:
    api = RunnerApi(Runner(stepper).service, Keyring("for tests"))
    call: Any = NoCall()
    request = runner_pb.ExecuteTaskRequest(spec=task_pb2.TaskSpec(agent="stepper"))
    chunks = [chunk async for answer in api.execute_task(request, call) for chunk in answer.chunks]
    events = [event for chunk in chunks for event in chunk.events]
    kinds = [event.WhichOneof("payload") for event in events]
    assert kinds == ["step_completed", "message", "step_completed", "state_changed"]
    assert events[-1].state_changed.state == pb.TASK_STATE_COMPLETED
    assert events[-1].state_changed.result.text == "3"
    assert chunks[0].first_sequence == 1
