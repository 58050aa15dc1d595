"""Why an attempt is stopped, and what becomes of it then."""

from collections.abc import Sequence

from agentmesh.api.runner.v1 import runner_service_pb2 as pb
from agentmesh.kit.errors import DeadlineExceeded, Unavailable
from agentmesh_runner.execution import failed

Stop = pb.StopAttempt

# Reasons of our own, beside those that routers have.
HAND_BACK, PARK, IDLE, LEASE_LOST = 101, 102, 103, 104

SILENT = frozenset({Stop.REASON_STALE, LEASE_LOST})
"""The task is somebody else's: nothing is said of the attempt any more."""

RESUMED = SILENT | {HAND_BACK, PARK}
"""The next attempt goes on, and joins the model calls that are under way."""


def outcome_of(reason: int, awaited: Sequence[str]) -> pb.Outcome:
    """Return how an attempt ends that was stopped, and not silently; `awaited` are the children that it waits for."""
    if not reason:
        return failed(Unavailable("the agent let itself be canceled", reason="AGENT_FAILED"))
    if reason == PARK:
        return pb.Outcome(released=pb.Outcome.Release(passivate=True, awaited_task_ids=awaited))
    if reason == HAND_BACK:
        return pb.Outcome(released=pb.Outcome.Release())
    if reason == Stop.REASON_DEADLINE:
        late = DeadlineExceeded("the task ran out of time", reason="TASK_TIMEOUT")
        return failed(late, non_retryable=True)
    if reason == IDLE:
        return failed(DeadlineExceeded("the task said nothing for too long", reason="IDLE_TIMEOUT"))
    return pb.Outcome(canceled=pb.Outcome.Canceled())
