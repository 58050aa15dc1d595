"""The events that storage says itself; everything else passes through as bytes."""

from google.rpc import status_pb2

from agentmesh.api.task.v1 import events_pb2 as pb
from agentmesh.api.types.v1 import types_pb2
from agentmesh.kit.clock import timestamp
from agentmesh.kit.errors import MeshError, to_status
from agentmesh_storage.domain import State, Task


def submitted(now_ms: int) -> bytes:
    """A task was accepted."""
    return _list(now_ms, pb.TaskEvent(state_changed=pb.StateChanged(state=pb.TASK_STATE_SUBMITTED)))


def attempt_started(task: Task, supersedes_after: int, now_ms: int) -> bytes:
    """An attempt began; two events."""
    runner = task.incarnation.partition("~")[0]
    started = pb.AttemptStarted(
        attempt=task.attempt,
        supersedes_after_sequence=supersedes_after,
        runner=runner,
        agent_version=task.agent_version,
    )
    return _list(
        now_ms,
        pb.TaskEvent(attempt_started=started),
        pb.TaskEvent(state_changed=pb.StateChanged(state=pb.TASK_STATE_WORKING)),
    )


def state_changed(state: State, now_ms: int, error: bytes = b"", ready_ms: int | None = None) -> bytes:
    """A task changed state without its agent."""
    changed = pb.StateChanged(state=int(state))  # type: ignore[arg-type]
    if error:
        changed.error.CopyFrom(status_pb2.Status.FromString(error))
    if ready_ms is not None:
        changed.retry_time.CopyFrom(timestamp(ready_ms))
    return _list(now_ms, pb.TaskEvent(state_changed=changed))


def child_task(child: Task, now_ms: int) -> bytes:
    """A child was spawned or ended; for its parent's log."""
    event = pb.ChildTask(
        task_id=child.id,
        agent=child.agent,
        step_key=child.parent_step,
        state=int(child.state),  # type: ignore[arg-type]
    )
    return _list(now_ms, pb.TaskEvent(child_task=event))


def input_given(message: bytes, state: State, now_ms: int) -> bytes:
    """A question was answered; two events."""
    return _list(
        now_ms,
        pb.TaskEvent(message=types_pb2.Message.FromString(message)),
        pb.TaskEvent(state_changed=pb.StateChanged(state=int(state))),  # type: ignore[arg-type]
    )


def status(error: MeshError) -> bytes:
    """Write an error as a serialised Status."""
    data: bytes = to_status(error).SerializeToString()
    return data


def _list(now_ms: int, *events: pb.TaskEvent) -> bytes:
    time = timestamp(now_ms)
    for event in events:
        event.time.CopyFrom(time)
    return pb.EventList(events=events).SerializeToString()
