"""The events of a task as a client gets them: each with its place in the log, cut and checked once."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from agentmesh.api.task.v1 import events_pb2 as pb
from agentmesh.kit.wire import TERMINAL as TERMINAL


class Event(NamedTuple):
    """One thing that happened to a task. Sequences count from 1 without gaps; `attempt` is 0 outside of any."""

    task_id: str
    sequence: int
    attempt: int
    event: pb.TaskEvent

    @property
    def name(self) -> str:
        """Name of the payload, such as text_delta; empty for a payload that this release doesn't know."""
        return self.event.WhichOneof("payload") or ""

    @property
    def is_last(self) -> bool:
        """Whether the task has ended with this event."""
        return ends_task(self.event)


class SequenceGap(Exception):
    """Events are missing between the last one that came and this chunk."""


def ends_task(event: pb.TaskEvent) -> bool:
    """Say whether an event is the terminal one."""
    return event.HasField("state_changed") and event.state_changed.state in TERMINAL


def news_in(chunk: pb.EventChunk, last_sequence: int) -> pb.EventChunk | None:
    """Return what of a chunk comes after a sequence, or None if nothing does; raise SequenceGap if some is missing."""
    skip = last_sequence + 1 - chunk.first_sequence
    if skip == 0:
        return chunk
    if skip < 0:
        raise SequenceGap(f"got {chunk.first_sequence} after {last_sequence}")
    if skip >= len(chunk.events):
        return None
    return pb.EventChunk(
        task_id=chunk.task_id,
        attempt=chunk.attempt,
        first_sequence=last_sequence + 1,
        events=chunk.events[skip:],
    )


def events_of(chunks: Iterable[pb.EventChunk]) -> Iterator[Event]:
    """Take chunks apart."""
    for chunk in chunks:
        task_id, attempt, first = chunk.task_id, chunk.attempt, chunk.first_sequence
        for position, event in enumerate(chunk.events):
            yield Event(task_id, first + position, attempt, event)
