"""Attempts without a mesh: what a Running needs, doing nothing."""

from agentmesh.api.runner.v1 import runner_service_pb2 as runner_pb
from agentmesh.api.task.v1 import events_pb2 as pb
from agentmesh_runner.running import Running
from agentmesh_runner.session import Session


def running(session: Session, task_id: str = "t1", **fields: object) -> Running:
    """Make an attempt that speaks to a session and reaches neither models nor artifacts."""
    assignment = runner_pb.Assignment(task_id=task_id, attempt=1, tenant="acme", **fields)  # type: ignore[arg-type]
    return Running(assignment, None, None, session.speak)  # type: ignore[arg-type]


def delta(text: str) -> pb.TaskEvent:
    """Write a text delta."""
    return pb.TaskEvent(text_delta=pb.TextDelta(text=text))
