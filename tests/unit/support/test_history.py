"""The history checker passes good histories and catches every fault that is planted in one."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from agentmesh.api.task.v1 import events_pb2 as pb
from agentmesh.api.task.v1 import task_pb2
from agentmesh.api.types.v1 import types_pb2
from tests.support.history import Expected, Fault, History
from tests.support.reading import Entry

SUBMITTED, WORKING, COMPLETED, FAILED, CANCELED = 1, 2, 3, 4, 5


def state(number: int) -> pb.TaskEvent:
    return pb.TaskEvent(state_changed=pb.StateChanged(state=number))  # type: ignore[arg-type]


def began(attempt: int, after: int) -> pb.TaskEvent:
    return pb.TaskEvent(attempt_started=pb.AttemptStarted(attempt=attempt, supersedes_after_sequence=after))


def said(text: str = "hello", step: str = "") -> pb.TaskEvent:
    return pb.TaskEvent(message=types_pb2.Message(parts=[types_pb2.Part(text=text)]), step=step)


def delta(text: str) -> pb.TaskEvent:
    return pb.TaskEvent(text_delta=pb.TextDelta(text=text))


def done(key: str, kind: str = "step") -> pb.TaskEvent:
    return pb.TaskEvent(step_completed=pb.StepCompleted(key=key, kind=kind))


def child(key: str, number: int) -> pb.TaskEvent:
    return pb.TaskEvent(child_task=pb.ChildTask(task_id=f"child-{key}", step_key=key, state=number))  # type: ignore[arg-type]


@dataclass
class Story:
    """A history of one task, told by one reader, that a test spoils; each pair is an attempt and what it said."""

    told: list[tuple[int, pb.TaskEvent]]
    expected: Expected = field(default_factory=lambda: Expected(messages=2))
    state: int = COMPLETED
    last_sequence: int = 0
    shown: list[Entry] = field(default_factory=list)
    stored: list[Entry] = field(default_factory=list)
    history: History = field(default_factory=History)

    def __post_init__(self) -> None:
        self.stored = [(number, attempt, event) for number, (attempt, event) in enumerate(self.told, start=1)]
        self.shown = list(self.stored)

    def faults(self) -> set[Fault]:
        history = self.history
        history.submit("r", self.expected)
        history.accept("r", "t")
        reading = history.read("reader", "t")
        for entry in self.shown:
            reading.add(*entry)
        last = self.last_sequence or len(self.stored)
        task = task_pb2.Task(id="t", request_id="r", state=self.state, last_sequence=last)  # type: ignore[arg-type]
        history.store(task, self.stored)
        return history.verdict().faults


def simple() -> Story:
    """One attempt, two messages."""
    return Story([(0, state(SUBMITTED)), (0, began(1, 1)), (1, said()), (1, said()), (1, state(COMPLETED))])


def retold() -> Story:
    """The first attempt died in the middle, the second told everything again."""
    first = [(0, state(SUBMITTED)), (0, began(1, 1)), (1, said())]
    return Story([*first, (0, began(2, 2)), (2, said()), (2, said()), (2, state(COMPLETED))])


def stepwise() -> Story:
    """The first attempt finished one step and began another, the second did only what was left."""
    first = [(0, state(SUBMITTED)), (0, began(1, 1)), (1, said(step="a")), (1, done("a")), (1, delta("x"))]
    second = [(0, began(2, 4)), (2, said(step="b")), (2, done("b")), (2, state(COMPLETED))]
    return Story([*first, *second], Expected(messages=2, steps=True))


def handed_back() -> Story:
    """The first attempt failed and said so."""
    first = [(0, state(SUBMITTED)), (0, began(1, 1)), (1, said()), (1, state(SUBMITTED))]
    return Story([*first, (0, began(2, 2)), (2, said()), (2, said()), (2, state(COMPLETED))])


def canceled() -> Story:
    """Canceled after the first of two messages."""
    expected = Expected(messages=2, states=(COMPLETED, CANCELED))
    return Story([(0, state(SUBMITTED)), (0, began(1, 1)), (1, said()), (0, state(CANCELED))], expected, state=CANCELED)


def parent() -> Story:
    """Two children, which ended while nobody held the parent."""
    told = [(0, state(SUBMITTED)), (0, began(1, 1)), (0, child("a", SUBMITTED)), (0, child("b", SUBMITTED))]
    told += [(0, child("b", COMPLETED)), (0, child("a", COMPLETED)), (0, began(2, 6)), (2, state(COMPLETED))]
    return Story(told, Expected(children=2))


def written() -> Story:
    """Deltas, and an LLM call before them."""
    told = [(0, state(SUBMITTED)), (0, began(1, 1)), (1, done("l", "llm")), (1, delta("hel")), (1, delta("lo"))]
    return Story([*told, (1, state(COMPLETED))], Expected(deltas=1, llm_calls=1))


GOOD = (simple, retold, stepwise, handed_back, canceled, parent, written)


@pytest.mark.parametrize("make", GOOD, ids=lambda make: make.__name__)
def test_a_good_history_passes(make: Callable[[], Story]) -> None:
    assert make().faults() == set()


@pytest.mark.parametrize("make", GOOD, ids=lambda make: make.__name__)
def test_a_reader_may_resume_anywhere_and_leave_at_any_time(make: Callable[[], Story]) -> None:
    story = make()
    for after in range(len(story.stored)):
        for until in range(after, len(story.stored)):
            reading = story.history.read("resumed", "t", after)
            for entry in story.stored[after:until]:
                reading.add(*entry)
    assert story.faults() == set()


def spoil_lost_task(story: Story) -> None:
    story.history.accept("other", "gone")


def spoil_lost_tail(story: Story) -> None:
    story.last_sequence = len(story.stored) + 1


def spoil_lost_event(story: Story) -> None:
    story.shown.append((6, 1, said()))


def spoil_lost_task_of_a_reader(story: Story) -> None:
    story.history.read("reader", "gone").add(*story.stored[0])


def spoil_lost_beginning(story: Story) -> None:
    story.stored[0] = story.shown[0] = (1, 0, state(WORKING))


def spoil_two_tasks_of_one_request(story: Story) -> None:
    other = task_pb2.Task(id="u", request_id="r", state=COMPLETED, last_sequence=5)
    story.history.store(other, story.stored)


def spoil_two_acknowledgements_of_one_request(story: Story) -> None:
    story.history.accept("r", "u")


def spoil_doubled_event(story: Story) -> None:
    story.shown.insert(3, story.shown[2])


def spoil_doubled_before_the_resume(story: Story) -> None:
    story.history.read("reader", "t", 3).add(*story.stored[2])


def spoil_doubled_step(story: Story) -> None:
    for number in (3, 4):
        story.stored[number - 1] = story.shown[number - 1] = (number, 1, done("a"))
    story.expected = Expected()


def spoil_gap(story: Story) -> None:
    del story.shown[2]


def spoil_gap_in_the_store(story: Story) -> None:
    del story.stored[2], story.shown[2]
    story.expected = Expected(messages=1)
    story.last_sequence = 5


def spoil_gap_after_the_resume(story: Story) -> None:
    story.history.read("reader", "t", 2).add(*story.stored[3])


def spoil_order(story: Story) -> None:
    story.shown[2], story.shown[3] = story.shown[3], story.shown[2]


def spoil_content(story: Story) -> None:
    story.shown[2] = (3, 1, said("bye"))


def spoil_attempt_of_the_content(story: Story) -> None:
    story.shown[2] = (3, 2, said())


def spoil_result(story: Story) -> None:
    story.history.result("t", COMPLETED, ["hello"])


def spoil_state_of_the_result(story: Story) -> None:
    story.history.result("t", CANCELED, ["hello", "hello"])


def spoil_second_terminal(story: Story) -> None:
    story.stored.append((6, 1, state(COMPLETED)))


def spoil_no_terminal(story: Story) -> None:
    story.stored[4] = story.shown[4] = (5, 1, said())
    story.expected = Expected(messages=3)


def spoil_late_event(story: Story) -> None:
    story.stored.append((6, 0, delta("x")))
    story.expected = Expected(messages=2, deltas=1, text="hello")


def spoil_other_terminal(story: Story) -> None:
    story.stored[4] = story.shown[4] = (5, 1, state(FAILED))


def spoil_terminal_of_a_task_that_runs(story: Story) -> None:
    story.state = WORKING


def spoil_stale_write(story: Story) -> None:
    story.stored[2:2] = [(3, 0, began(2, 2))]
    renumber(story)


def spoil_write_without_an_attempt(story: Story) -> None:
    story.stored[2] = story.shown[2] = (3, 2, said())


def spoil_attempt_that_goes_back(story: Story) -> None:
    story.stored[2:2] = [(3, 0, began(1, 2))]
    renumber(story)


def spoil_write_after_the_hand_back(story: Story) -> None:
    story.stored[2:2] = [(3, 1, state(SUBMITTED))]
    renumber(story)


def spoil_said_twice(story: Story) -> None:
    story.stored[4:4] = [(5, 1, said())]
    renumber(story)


def spoil_not_said(story: Story) -> None:
    del story.stored[3]
    renumber(story)


def spoil_said_other(story: Story) -> None:
    story.stored[3] = story.shown[3] = (4, 1, said("bye"))


def spoil_unended(story: Story) -> None:
    story.state = WORKING
    del story.stored[4], story.shown[4]


def spoil_failed(story: Story) -> None:
    story.state = FAILED
    story.stored[4] = story.shown[4] = (5, 1, state(FAILED))


def renumber(story: Story) -> None:
    story.stored = [(number, a, e) for number, (_, a, e) in enumerate(story.stored, start=1)]
    story.shown = list(story.stored)


PLANTED: list[tuple[Callable[[Story], None], set[Fault]]] = [
    (spoil_lost_task, {Fault.LOST}),
    (spoil_lost_tail, {Fault.LOST}),
    (spoil_lost_event, {Fault.LOST}),
    (spoil_lost_task_of_a_reader, {Fault.LOST}),
    (spoil_lost_beginning, {Fault.LOST}),
    (spoil_two_tasks_of_one_request, {Fault.DOUBLED}),
    (spoil_two_acknowledgements_of_one_request, {Fault.DOUBLED, Fault.LOST}),
    (spoil_doubled_event, {Fault.DOUBLED}),
    (spoil_doubled_before_the_resume, {Fault.DOUBLED}),
    (spoil_doubled_step, {Fault.DOUBLED}),
    (spoil_gap, {Fault.GAP}),
    (spoil_gap_in_the_store, {Fault.GAP}),
    (spoil_gap_after_the_resume, {Fault.GAP}),
    (spoil_order, {Fault.REORDERED}),
    (spoil_content, {Fault.DIFFERING}),
    (spoil_attempt_of_the_content, {Fault.DIFFERING}),
    (spoil_result, {Fault.DIFFERING}),
    (spoil_state_of_the_result, {Fault.DIFFERING}),
    (spoil_second_terminal, {Fault.TERMINAL}),
    (spoil_no_terminal, {Fault.TERMINAL}),
    (spoil_late_event, {Fault.TERMINAL, Fault.FOLD}),
    (spoil_other_terminal, {Fault.TERMINAL}),
    (spoil_terminal_of_a_task_that_runs, {Fault.TERMINAL, Fault.UNENDED}),
    (spoil_stale_write, {Fault.STALE}),
    (spoil_write_without_an_attempt, {Fault.STALE}),
    (spoil_attempt_that_goes_back, {Fault.STALE}),
    (spoil_write_after_the_hand_back, {Fault.STALE}),
    (spoil_said_twice, {Fault.FOLD}),
    (spoil_not_said, {Fault.FOLD}),
    (spoil_said_other, {Fault.FOLD}),
    (spoil_unended, {Fault.UNENDED}),
    (spoil_failed, {Fault.UNENDED}),
]


@pytest.mark.parametrize(("spoil", "faults"), PLANTED, ids=lambda value: getattr(value, "__name__", ""))
def test_a_planted_fault_is_caught(spoil: Callable[[Story], None], faults: set[Fault]) -> None:
    story = simple()
    spoil(story)
    assert story.faults() == faults


def test_every_kind_of_fault_is_planted() -> None:
    assert set().union(*(faults for _, faults in PLANTED)) == set(Fault)


def test_a_step_that_says_its_message_twice_is_caught_although_it_folds_to_one() -> None:
    first = [(0, state(SUBMITTED)), (0, began(1, 1)), (1, said(step="a")), (0, began(2, 1)), (2, said(step="a"))]
    story = Story([*first, (2, done("a")), (2, state(COMPLETED))], Expected(messages=1, steps=True))
    assert story.faults() == {Fault.FOLD}


def test_deltas_that_a_new_attempt_repeats_without_taking_the_old_ones_back_are_caught() -> None:
    first = [(0, state(SUBMITTED)), (0, began(1, 1)), (1, delta("hel")), (0, began(2, 3)), (2, delta("hello"))]
    assert Story([*first, (2, state(COMPLETED))], Expected(deltas=1)).faults() == {Fault.FOLD}


def test_a_child_that_is_spawned_again_by_the_next_attempt_is_caught() -> None:
    told = [(0, state(SUBMITTED)), (0, began(1, 1)), (0, child("a", SUBMITTED)), (0, began(2, 2))]
    told += [(0, child("a", SUBMITTED)), (0, child("a", COMPLETED)), (2, state(COMPLETED))]
    assert Story(told, Expected(children=1)).faults() == {Fault.DOUBLED}


def test_the_line_counts_each_kind() -> None:
    story = simple()
    spoil_gap(story)
    story.faults()
    line = story.history.verdict().line()
    assert line.startswith("lost=0 doubled=0 gaps=1 reordered=0")
