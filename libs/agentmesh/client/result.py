"""What is left of a task when it has ended, read from its folded events."""

from collections.abc import Iterable, Sequence
from functools import cached_property

from agentmesh.api.task.v1 import events_pb2 as pb
from agentmesh.api.types.v1 import types_pb2
from agentmesh.client.event import Event, ends_task, events_of
from agentmesh.client.fold import Folder, joined_text
from agentmesh.client.spec import Json
from agentmesh.kit.errors import Canceled, MeshError, WrongState, from_status
from agentmesh.kit.structs import to_python
from agentmesh.kit.usages import add as add_usage


class Result:
    """An ended task. Everything but `task_id` and `state` is worked out when it is first asked for."""

    def __init__(self, task_id: str, chunks: Sequence[pb.EventChunk]) -> None:
        """`chunks` are the task's whole log, in order and without gaps."""
        self.task_id = task_id
        self._chunks = chunks
        last = chunks[-1].events[-1] if chunks else pb.TaskEvent()
        self._end = last.state_changed if ends_task(last) else pb.StateChanged()

    @property
    def state(self) -> pb.TaskState.ValueType:
        """The terminal state; UNSPECIFIED if the log was read only in part."""
        return self._end.state

    @property
    def state_name(self) -> str:
        """The state as a word, such as COMPLETED."""
        return pb.TaskState.Name(self.state).removeprefix("TASK_STATE_")

    @property
    def completed(self) -> bool:
        """Whether the task ended with a result."""
        return self.state == pb.TASK_STATE_COMPLETED

    @cached_property
    def text(self) -> str:
        """The answer's text; of a task without a result, what it had said."""
        return self._end.result.text or joined_text(event.event for event in self.events)

    @cached_property
    def data(self) -> dict[str, Json]:
        """The answer's data; empty if there is none."""
        found: dict[str, Json] = to_python(self._end.result.data)
        return found

    @cached_property
    def artifacts(self) -> list[types_pb2.Artifact]:
        """What the task made; AsyncClient.download fetches the bytes."""
        if self.completed:
            return list(self._end.result.artifacts)
        return [event.event.artifact for event in self.events if event.name == "artifact"]

    @property
    def verdict(self) -> pb.Verdict | None:
        """What the agent's own checks said of the answer, if it has any."""
        return self._end.result.verdict if self._end.result.HasField("verdict") else None

    @cached_property
    def error(self) -> MeshError | None:
        """Why the task FAILED or was REJECTED."""
        return from_status(self._end.error) if self._end.HasField("error") else None

    @cached_property
    def usage(self) -> types_pb2.Usage:
        """What the task consumed, summed over the events that hold."""
        return total_usage(event.event.usage for event in self.events if event.name == "usage")

    @cached_property
    def events(self) -> tuple[Event, ...]:
        """The events that hold, in order; those of superseded attempts are left out."""
        folder = Folder()
        for event in events_of(self._chunks):
            folder.add(event.sequence, event.attempt, event.event)
        return tuple(Event(self.task_id, *kept) for kept in folder.events)

    def raise_for_state(self) -> None:
        """Raise the task's error, or Canceled, unless it is COMPLETED."""
        if self.completed:
            return
        if self.error is not None:
            raise self.error
        if self.state == pb.TASK_STATE_CANCELED:
            raise Canceled("the task was canceled")
        raise WrongState(f"the task is {self.state_name}", reason="TASK_NOT_COMPLETED")

    def __repr__(self) -> str:
        return f"Result(task_id={self.task_id!r}, state={self.state_name})"


def total_usage(usages: Iterable[types_pb2.Usage]) -> types_pb2.Usage:
    """Add usages up; the model is named if it is the same in all."""
    total = types_pb2.Usage()
    models: set[str] = set()
    for usage in usages:
        add_usage(total, usage)
        if usage.model:
            models.add(usage.model)
    if len(models) == 1:
        total.model = models.pop()
    return total
