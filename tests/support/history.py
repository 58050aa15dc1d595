"""Holds what clients and readers saw against what the store finally says, and names every broken promise."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from agentmesh.api.task.v1 import events_pb2, task_pb2
from tests.support.reading import Entry, fold, text_of

_TERMINAL = (3, 4, 5, 7)
_SUBMITTED, _COMPLETED, _CANCELED = 1, 3, 5
_SHOWN = 20


class Fault(StrEnum):
    """What can be wrong with a history."""

    LOST = "lost"
    """Something was acknowledged or shown, and the store does not have it."""
    DOUBLED = "doubled"
    """One request became two tasks, an event was shown twice, a step was done twice."""
    GAP = "gaps"
    """A sequence was left out."""
    REORDERED = "reordered"
    """A sequence came after a higher one."""
    DIFFERING = "differing"
    """Two readers, or a reader and the store, do not agree on what was said."""
    TERMINAL = "terminals"
    """Not exactly one terminal event at the end, or not the one that the task's state says."""
    STALE = "stale"
    """An attempt wrote after another had begun, or without having begun."""
    FOLD = "folds"
    """The folded output says a thing twice, or not at all."""
    UNENDED = "unended"
    """The task did not end, or not in a state that was expected."""


@dataclass(frozen=True)
class Expected:
    """What must be left of a task; a canceled one may have said less. `steps`: nothing is said twice even unfolded."""

    messages: int = 0
    text: str = "hello"
    steps: bool = False
    deltas: int = 0
    llm_calls: int = 0
    children: int = 0
    states: tuple[int, ...] = (_COMPLETED,)


@dataclass(frozen=True)
class Finding:
    """One broken promise."""

    fault: Fault
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.fault}: {self.where}: {self.what}"


@dataclass
class Verdict:
    """What is wrong with a history."""

    findings: list[Finding]

    @property
    def clean(self) -> bool:
        """Whether every promise was kept."""
        return not self.findings

    @property
    def faults(self) -> set[Fault]:
        """The kinds of faults that were found."""
        return {finding.fault for finding in self.findings}

    def line(self) -> str:
        """Return a count for each kind of fault, in one line."""
        counts = Counter(finding.fault for finding in self.findings)
        return " ".join(f"{fault}={counts[fault]}" for fault in Fault)

    def report(self) -> str:
        """Return the first findings, one a line."""
        lines = [str(finding) for finding in self.findings[:_SHOWN]]
        left = len(self.findings) - len(lines)
        return "\n".join([*lines, f"… and {left} more"] if left else lines)


@dataclass
class Reading:
    """What one reader got of one log after a sequence, in the order in which it came."""

    reader: str
    task_id: str
    after_sequence: int
    seen: list[tuple[int, bytes]] = field(default_factory=list)

    def add(self, sequence: int, attempt: int, event: events_pb2.TaskEvent) -> None:
        """Note an event."""
        self.seen.append((sequence, content_of(attempt, event)))

    def add_chunk(self, chunk: events_pb2.EventChunk) -> None:
        """Note a chunk's events."""
        for position, event in enumerate(chunk.events):
            self.add(chunk.first_sequence + position, chunk.attempt, event)


@dataclass
class Stored:
    """What the store finally says of a task."""

    task: task_pb2.Task
    log: list[Entry]


class History:
    """Collects from any number of clients; `verdict` judges once everything has come to rest."""

    def __init__(self) -> None:
        self.expected: dict[str, Expected] = {}
        self.accepted: dict[str, set[str]] = defaultdict(set)
        self.readings: list[Reading] = []
        self.results: list[tuple[str, int, list[str]]] = []
        self.stored: dict[str, Stored] = {}

    def submit(self, request_id: str, expected: Expected) -> None:
        """Note that a request is about to be sent, any number of times."""
        self.expected[request_id] = expected

    def accept(self, request_id: str, task_id: str) -> None:
        """Note that the mesh acknowledged a request."""
        self.accepted[request_id].add(task_id)

    def read(self, reader: str, task_id: str, after_sequence: int = 0) -> Reading:
        """Begin a reading; a reader that comes back at another sequence begins another one."""
        reading = Reading(reader, task_id, after_sequence)
        self.readings.append(reading)
        return reading

    def result(self, task_id: str, state: int, messages: Sequence[str]) -> None:
        """Note what the shipped client made of a whole log."""
        self.results.append((task_id, state, list(messages)))

    def store(self, task: task_pb2.Task, log: Iterable[Entry]) -> None:
        """Note what the store finally says: GetTask, and WatchTask from 0."""
        self.stored[task.id] = Stored(task, list(log))

    def verdict(self) -> Verdict:
        """Judge everything."""
        judge = _Judge(self)
        judge.requests()
        for stored in self.stored.values():
            judge.log(stored)
        for reading in self.readings:
            judge.reading(reading)
        for task_id, state, messages in self.results:
            judge.result(task_id, state, messages)
        return Verdict(judge.findings)


class _Judge:
    def __init__(self, history: History) -> None:
        self.findings: list[Finding] = []
        self._history = history
        self._content = {
            task_id: {sequence: content_of(attempt, event) for sequence, attempt, event in stored.log}
            for task_id, stored in history.stored.items()
        }

    def requests(self) -> None:
        """Hold acknowledgements against the tasks that there are."""
        tasks: dict[str, set[str]] = defaultdict(set)
        for task_id, stored in self._history.stored.items():
            if stored.task.request_id:
                tasks[stored.task.request_id].add(task_id)
        for request_id, acknowledged in self._history.accepted.items():
            for task_id in sorted(acknowledged - self._history.stored.keys()):
                self._find(Fault.LOST, request_id, f"was acknowledged as {task_id}, which is not there")
            tasks[request_id] |= acknowledged
        for request_id, found in tasks.items():
            if len(found) > 1:
                self._find(Fault.DOUBLED, request_id, f"became the tasks {sorted(found)}")

    def log(self, stored: Stored) -> None:
        """Judge a log as it is stored."""
        task = stored.task
        self._order(task.id, 0, [sequence for sequence, _, _ in stored.log])
        last = stored.log[-1][0] if stored.log else 0
        if last < task.last_sequence:
            self._find(Fault.LOST, task.id, f"the log ends at {last}, the task says {task.last_sequence}")
        self._ends(stored)
        self._attempts(task.id, stored.log)
        completed = Counter(e.step_completed.key for _, _, e in stored.log if e.HasField("step_completed"))
        for key, times in completed.items():
            if times > 1:
                self._find(Fault.DOUBLED, task.id, f"step {key} was completed {times} times")
        expected = self._history.expected.get(task.request_id)
        if expected is not None:
            self._output(stored, expected)

    def reading(self, reading: Reading) -> None:
        """Judge what one reader saw."""
        where = f"{reading.reader} on {reading.task_id} after {reading.after_sequence}"
        self._order(where, reading.after_sequence, [sequence for sequence, _ in reading.seen])
        content = self._content.get(reading.task_id)
        if content is None:
            if reading.seen:
                self._find(Fault.LOST, where, "the task is not there")
            return
        for sequence, seen in reading.seen:
            if sequence not in content:
                self._find(Fault.LOST, where, f"sequence {sequence} was shown and is not there")
            elif content[sequence] != seen:
                self._find(Fault.DIFFERING, where, f"sequence {sequence} was shown with another content")

    def result(self, task_id: str, state: int, messages: Sequence[str]) -> None:
        """Judge what the shipped client made of a log."""
        stored = self._history.stored.get(task_id)
        if stored is None:
            self._find(Fault.LOST, task_id, "a client has its result and the task is not there")
        elif state != stored.task.state:
            self._find(Fault.DIFFERING, task_id, f"a client saw state {state}, the task is in {stored.task.state}")
        elif list(messages) != _messages(fold(stored.log)):
            self._find(Fault.DIFFERING, task_id, f"a client folded it to {len(messages)} other messages")

    # -- inside ---------------------------------------------------------------------------------------------

    def _order(self, where: str, after: int, sequences: list[int]) -> None:
        seen: set[int] = set()
        highest = after
        for sequence in sequences:
            if sequence in seen or sequence <= after:
                self._find(Fault.DOUBLED, where, f"sequence {sequence} came again")
            elif sequence < highest:
                self._find(Fault.REORDERED, where, f"sequence {sequence} came after {highest}")
            seen.add(sequence)
            highest = max(highest, sequence)
        for sequence in sorted(set(range(after + 1, highest + 1)) - seen):
            self._find(Fault.GAP, where, f"sequence {sequence} never came")

    def _ends(self, stored: Stored) -> None:
        task, log = stored.task, stored.log
        if not log or not log[0][2].HasField("state_changed") or log[0][2].state_changed.state != _SUBMITTED:
            self._find(Fault.LOST, task.id, "the log does not begin with SUBMITTED")
        ends = [(position, e.state_changed.state) for position, (_, _, e) in enumerate(log) if _is_end(e)]
        if task.state not in _TERMINAL:
            kinds = [event.WhichOneof("payload") for _, _, event in log]
            last = f"attempt {task.attempt}, {len(log)} events, the last of them {kinds[-3:]}"
            self._find(Fault.UNENDED, task.id, f"is in state {task.state}: {task.spec.agent}, {last}")
            if ends:
                self._find(Fault.TERMINAL, task.id, "has a terminal event and has not ended")
        elif [state for _, state in ends] != [task.state]:
            self._find(Fault.TERMINAL, task.id, f"is in state {task.state}, its log ends with {ends}")
        elif ends[0][0] != len(log) - 1:
            self._find(Fault.TERMINAL, task.id, "goes on after the terminal event")

    def _attempts(self, where: str, log: list[Entry]) -> None:
        holder, highest = 0, 0
        for sequence, attempt, event in log:
            if event.HasField("attempt_started"):
                holder = event.attempt_started.attempt
                if holder <= highest:
                    self._find(Fault.STALE, where, f"attempt {holder} began after attempt {highest}")
                highest = max(highest, holder)
                if event.attempt_started.supersedes_after_sequence >= sequence:
                    self._find(Fault.STALE, where, f"attempt {holder} supersedes what comes after it")
            elif attempt and attempt != holder:
                self._find(Fault.STALE, where, f"attempt {attempt} wrote {sequence} while attempt {holder} held it")
            elif event.HasField("state_changed") and event.state_changed.state == _SUBMITTED and sequence > 1:
                holder = 0  # handed back: nobody may write until the next attempt

    def _output(self, stored: Stored, expected: Expected) -> None:
        task = stored.task
        if task.state in _TERMINAL and task.state not in expected.states:
            self._find(Fault.UNENDED, task.id, f"ended in state {task.state}: {task.spec.agent}, {task.error.message}")
        folded = fold(stored.log)
        whole = task.state == _COMPLETED
        said = _messages(folded)
        self._count(task.id, "messages", len(said), expected.messages, whole=whole)
        if any(text != expected.text for text in said):
            self._find(Fault.FOLD, task.id, "says something else than it was told")
        if expected.steps:
            raw = _messages(event for _, _, event in stored.log)
            self._count(task.id, "unfolded messages", len(raw), expected.messages, whole=whole)
        deltas = "".join(event.text_delta.text for event in folded if event.HasField("text_delta"))
        if not (expected.text * expected.deltas).startswith(deltas):
            self._find(Fault.FOLD, task.id, "the joined deltas are something else than it was told")
        self._count(task.id, "bytes of deltas", len(deltas), len(expected.text) * expected.deltas, whole=whole)
        calls = sum(event.step_completed.kind == "llm" for event in folded)
        self._count(task.id, "LLM calls", calls, expected.llm_calls, whole=whole)
        children = Counter(
            (event.child_task.step_key, event.child_task.state in _TERMINAL)
            for event in folded
            if event.HasField("child_task")
        )
        spawned = len({key for key, _ in children})
        self._count(task.id, "children", spawned, expected.children, whole=whole)
        if any(times > 1 for times in children.values()):
            self._find(Fault.DOUBLED, task.id, f"children were spawned or ended twice: {children}")

    def _count(self, where: str, what: str, found: int, expected: int, *, whole: bool) -> None:
        if found > expected or (whole and found < expected):
            self._find(Fault.FOLD, where, f"{found} {what} instead of {expected}")

    def _find(self, fault: Fault, where: str, what: str) -> None:
        self.findings.append(Finding(fault, where, what))


def content_of(attempt: int, event: events_pb2.TaskEvent) -> bytes:
    """Return what two readers must agree on, as bytes."""
    return attempt.to_bytes(4, "big") + event.SerializeToString(deterministic=True)


def _is_end(event: events_pb2.TaskEvent) -> bool:
    return event.HasField("state_changed") and event.state_changed.state in _TERMINAL


def _messages(events: Iterable[events_pb2.TaskEvent]) -> list[str]:
    return [text_of(event) for event in events if event.HasField("message")]
