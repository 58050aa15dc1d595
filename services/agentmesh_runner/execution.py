"""Runs an agent for one attempt and says how it ended; the same in the main process and in host processes."""

import asyncio
import inspect
from typing import Any

from pydantic import ValidationError

from agentmesh.api.runner.v1 import runner_service_pb2 as runner_pb
from agentmesh.api.task.v1 import events_pb2
from agentmesh.kit import errors, names, telemetry, trace_context
from agentmesh.sdk import Agent, AgentError, Rejected, Result, TaskContext
from agentmesh.sdk.journal import Journal
from agentmesh.sdk.ports import Mesh
from agentmesh.sdk.steps import mismatch_of
from agentmesh.sdk.sync import SyncTaskContext

log = telemetry.logger(__name__)

Outcome = runner_pb.Outcome

_RETRYABLE = (errors.Unavailable, errors.ResourceExhausted, errors.DeadlineExceeded, errors.StaleAttempt)
_DEADLINE_SLACK_S = 0.05
_MAX_RESULT_BYTES = names.MAX_EVENT_BYTES - 4096


async def execute(agent: Agent, assignment: runner_pb.Assignment, mesh: Mesh) -> Outcome:
    """Run an agent to its end. CancelledError passes through: whoever cancels knows why."""
    telemetry.bind_log_fields(
        task_id=assignment.task_id,
        tenant=assignment.tenant,
        attempt=assignment.attempt,
        trace_id=trace_context.trace_id(assignment.traceparent),
    )
    journal = Journal(assignment.journal)
    context = TaskContext(assignment, mesh, journal)
    deadline = asyncio.timeout(_time_left_s(assignment))
    try:
        async with deadline:
            result = await _run(agent, context)
        mismatch = mismatch_of(journal)
        if mismatch is not None:
            await mesh.say([mismatch])
        return _completed(result, context)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - what an agent raises ends its attempt, not the runner
        if _is_over(deadline):
            late = errors.DeadlineExceeded("the task ran out of time", reason="TASK_TIMEOUT")
            return failed(late, non_retryable=True)
        return _failed(error)


def failed(error: errors.MeshError, *, non_retryable: bool = False) -> Outcome:
    """Return the outcome of an attempt that ended with an error."""
    return Outcome(failed=errors.to_status(error), non_retryable=non_retryable)


async def _run(agent: Agent, context: TaskContext) -> Any:
    parameters = agent.Parameters.model_validate(context.parameters)
    if inspect.iscoroutinefunction(agent.run):
        return await agent.run(context, parameters)
    blocking = SyncTaskContext(context, asyncio.get_running_loop())
    result = await asyncio.to_thread(agent.run, blocking, parameters)
    return await result if inspect.isawaitable(result) else result


def _completed(result: Any, context: TaskContext) -> Outcome:
    if result is None or isinstance(result, str):
        result = Result(text=result or "")
    if not isinstance(result, Result):
        raise AgentError("BAD_RESULT", "the agent must return a Result, a text or nothing")
    wire = result.to_wire()
    wire.artifacts.extend(context.artifacts)
    if wire.ByteSize() > _MAX_RESULT_BYTES:
        raise AgentError("RESULT_TOO_LARGE", "the result is larger than 252 KiB: make an artifact of it")
    return Outcome(completed=wire)


def _failed(error: BaseException) -> Outcome:
    if isinstance(error, BaseExceptionGroup):
        error = next((e for e in error.exceptions if isinstance(e, Exception)), error)
        return _failed(error)
    if isinstance(error, Rejected):
        return Outcome(rejected=errors.to_status(errors.InvalidRequest(error.message, reason=error.reason)))
    if isinstance(error, ValidationError):
        violations = [("spec.parameters." + ".".join(map(str, e["loc"])), e["msg"]) for e in error.errors()]
        refused = errors.InvalidRequest(
            "the parameters don't fit the agent", reason="PARAMETERS_INVALID", violations=violations
        )
        return Outcome(rejected=errors.to_status(refused))
    if isinstance(error, AgentError):
        status = errors.to_status(errors.Unavailable(error.message, reason=error.reason))
        return Outcome(failed=status, non_retryable=not error.retryable)
    if isinstance(error, errors.MeshError):
        return failed(error, non_retryable=not isinstance(error, _RETRYABLE))
    error_id = errors.new_error_id()
    log.error("agent_failed", error_id=error_id, exc_info=error)
    unknown = errors.Internal(
        f"the agent failed; the runner's log says why under {error_id}",
        reason="AGENT_FAILED",
        metadata={"error_id": error_id},
    )
    return failed(unknown)


def _is_over(deadline: asyncio.Timeout) -> bool:
    # A call's own deadline is the task's, and may be felt a moment before it.
    when = deadline.when()
    return when is not None and asyncio.get_running_loop().time() > when - _DEADLINE_SLACK_S


def _time_left_s(assignment: runner_pb.Assignment) -> float | None:
    left = assignment.time_left
    return left.seconds + left.nanos / 1e9 if assignment.HasField("time_left") else None


FINAL_STATES = {
    "completed": events_pb2.TASK_STATE_COMPLETED,
    "failed": events_pb2.TASK_STATE_FAILED,
    "rejected": events_pb2.TASK_STATE_REJECTED,
    "canceled": events_pb2.TASK_STATE_CANCELED,
}
