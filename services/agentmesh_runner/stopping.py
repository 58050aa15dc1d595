"""Why an attempt is stopped, and what becomes of it then."""

from agentmesh.api.runner.v1 import runner_service_pb2 as pb
from agentmesh.kit.errors import DeadlineExceeded, Unavailable
from agentmesh_runner.execution import failed
from agentmesh_runner.running import Running

Stop = pb.StopAttempt

# Reasons of our own, beside those that routers have.
HAND_BACK, PARK, IDLE, LEASE_LOST = 101, 102, 103, 104

SILENT = frozenset({Stop.REASON_STALE, LEASE_LOST})
"""The task is somebody else's: nothing is said of the attempt any more."""


def outcome_of(running: Running) -> pb.Outcome:
    """Return how an attempt ends that was stopped, and not silently."""
    reason = running.stop_reason
    if not reason:
        return failed(Unavailable("the agent let itself be canceled", reason="AGENT_FAILED"))
    if reason == PARK:
        return pb.Outcome(released=pb.Outcome.Release(passivate=True, awaited_task_ids=running.awaited))
    if reason == HAND_BACK:
        return pb.Outcome(released=pb.Outcome.Release())
    if reason == Stop.REASON_DEADLINE:
        late = DeadlineExceeded("the task ran out of time", reason="TASK_TIMEOUT")
        return failed(late, non_retryable=True)
    if reason == IDLE:
        return failed(DeadlineExceeded("the task said nothing for too long", reason="IDLE_TIMEOUT"))
    return pb.Outcome(canceled=pb.Outcome.Canceled())
