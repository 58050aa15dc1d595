"""Folding: of a log with several attempts, what still holds once the superseded parts are dropped."""

from collections.abc import Iterable

from agentmesh.api.task.v1 import events_pb2 as pb
from agentmesh.api.types.v1 import types_pb2


class Folder:
    """Takes a task's events in order and knows at any time which of them still hold.

    The rule is the contract's (AttemptStarted and TaskEvent.step in events.proto): a new attempt supersedes what
    was said after `supersedes_after_sequence`, and earlier events of steps that had not finished by then. Events
    of attempt 0 come from outside any attempt and always hold.
    """

    def __init__(self) -> None:
        self._kept: dict[int, tuple[int, pb.TaskEvent]] = {}  # in the order of sequences
        self._last = 0

    @property
    def last_sequence(self) -> int:
        """The highest sequence that was added; 0 before the first."""
        return self._last

    def add(self, sequence: int, attempt: int, event: pb.TaskEvent) -> list[int]:
        """Add the next event; return the sequences of earlier events that no longer hold, in order.

        An event that isn't newer than the last is ignored, so that overlapping reads do no harm.
        """
        if sequence <= self._last:
            return []
        self._last = sequence
        retracted: list[int] = []
        if event.HasField("attempt_started"):
            retracted = self._superseded(event.attempt_started.supersedes_after_sequence)
            for old in retracted:
                del self._kept[old]
        self._kept[sequence] = (attempt, event)
        return retracted

    @property
    def events(self) -> list[tuple[int, int, pb.TaskEvent]]:
        """What holds now, as (sequence, attempt, event) in order."""
        return [(sequence, attempt, event) for sequence, (attempt, event) in self._kept.items()]

    def text(self) -> str:
        """The text that holds now: deltas joined as they are, each whole message of the agent on lines of its own."""
        return joined_text(event for _, event in self._kept.values())

    def _superseded(self, after: int) -> list[int]:
        finished = {
            event.step_completed.key
            for sequence, (attempt, event) in self._kept.items()
            if event.HasField("step_completed") and (sequence <= after or not attempt)
        }
        return [
            sequence
            for sequence, (attempt, event) in self._kept.items()
            if attempt and (sequence > after or (event.step and event.step not in finished))
        ]


def joined_text(events: Iterable[pb.TaskEvent]) -> str:
    """Join the text of deltas and of the agent's messages."""
    text = ""
    pieces: list[str] = []
    for event in events:
        kind = event.WhichOneof("payload")
        if kind == "text_delta":
            pieces.append(event.text_delta.text)
        elif kind == "message" and event.message.role != types_pb2.ROLE_USER:
            text += "".join(pieces)
            pieces = []
            separator = "\n" if text and not text.endswith("\n") else ""
            text += separator + text_of(event.message) + "\n"
    return (text + "".join(pieces)).removesuffix("\n")


def text_of(message: types_pb2.Message) -> str:
    """Return the text parts of a message, each on lines of its own."""
    return "\n".join(part.text for part in message.parts if part.HasField("text"))
