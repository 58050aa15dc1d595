"""Judges what two readers saw of one task's log: was anything lost, doubled, left out or out of order?"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from agentmesh.client import Event, Folder


@dataclass(frozen=True, slots=True)
class Verdict:
    """How often each promise was broken."""

    lost: int
    doubled: int
    gaps: int
    reordered: int

    @property
    def clean(self) -> bool:
        """Whether every promise was kept."""
        return not (self.lost or self.doubled or self.gaps or self.reordered)

    def __str__(self) -> str:
        return f"lost {self.lost}, doubled {self.doubled}, gaps {self.gaps}, reordered {self.reordered}"


def judge(seen: Sequence[Event], log: Sequence[Event], lines: Sequence[str]) -> Verdict:
    """Hold what a client saw, in the order in which it came, against the log that another reader got later.

    Both begin at sequence 1. `lines` is what the folded text must be. An event that one reader has and the other has
    not, or has otherwise, is lost; so is a line that is missing, or the end of the task.
    """
    found = Counter(folded(seen).splitlines())
    wanted = Counter(lines)
    one, other = ({event.sequence: (event.attempt, event.event) for event in reading} for reading in (seen, log))
    differing = sum(one.get(sequence) != other.get(sequence) for sequence in one.keys() | other.keys())
    unended = sum(not reading or not reading[-1].is_last for reading in (seen, log))
    steps = Counter(event.event.step_completed.key for event in log if event.name == "step_completed")
    doubled, gaps, reordered = (sum(counts) for counts in zip(_order(seen), _order(log), strict=True))
    return Verdict(
        lost=differing + unended + (wanted - found).total(),
        doubled=doubled + (found - wanted).total() + steps.total() - len(steps),
        gaps=gaps,
        reordered=reordered,
    )


def folded(events: Sequence[Event]) -> str:
    """Return the text that holds after everything that was superseded is dropped."""
    folder = Folder()
    for event in sorted(events, key=lambda event: event.sequence):
        folder.add(event.sequence, event.attempt, event.event)
    return folder.text()


def _order(events: Sequence[Event]) -> tuple[int, int, int]:
    """Count sequences that came again, that never came, and that came late."""
    seen: set[int] = set()
    highest = doubled = reordered = 0
    for event in events:
        if event.sequence in seen:
            doubled += 1
        elif event.sequence < highest:
            reordered += 1
        seen.add(event.sequence)
        highest = max(highest, event.sequence)
    return doubled, highest - len(seen), reordered
