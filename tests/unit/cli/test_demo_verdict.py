"""The demo's verdict finds what it says that it looks for."""

import pytest

from agentmesh.api.task.v1 import events_pb2 as pb
from agentmesh.cli.demo_verdict import Verdict, judge
from agentmesh.client import Event
from tests.support.fake_mesh import state

LINES = ("one", "two")


def event(sequence: int, what: pb.TaskEvent, attempt: int = 1) -> Event:
    return Event("t", sequence, attempt, what)


def delta(text: str, step: str) -> pb.TaskEvent:
    return pb.TaskEvent(text_delta=pb.TextDelta(text=text), step=step)


def done(step: str) -> pb.TaskEvent:
    return pb.TaskEvent(step_completed=pb.StepCompleted(key=step))


def whole_log() -> list[Event]:
    """Two lines, the second of which a lost attempt had begun."""
    return [
        event(1, state(pb.TASK_STATE_SUBMITTED), 0),
        event(2, delta("one\n", "a")),
        event(3, done("a")),
        event(4, delta("tw", "b")),
        event(5, pb.TaskEvent(attempt_started=pb.AttemptStarted(attempt=2, supersedes_after_sequence=3)), 2),
        event(6, delta("two\n", "b"), 2),
        event(7, done("b"), 2),
        event(8, state(pb.TASK_STATE_COMPLETED), 2),
    ]


def test_two_readers_of_one_whole_log_are_clean() -> None:
    verdict = judge(whole_log(), whole_log(), LINES)
    assert verdict == Verdict(lost=0, doubled=0, gaps=0, reordered=0)
    assert verdict.clean
    assert str(verdict) == "lost 0, doubled 0, gaps 0, reordered 0"


def test_what_only_one_reader_has_is_lost_and_a_gap() -> None:
    verdict = judge([e for e in whole_log() if e.sequence != 4], whole_log(), LINES)
    assert verdict == Verdict(lost=1, doubled=0, gaps=1, reordered=0)
    assert not verdict.clean


def test_an_event_that_comes_twice_is_doubled() -> None:
    log = whole_log()
    assert judge([*log[:4], *log[3:]], log, LINES) == Verdict(lost=0, doubled=1, gaps=0, reordered=0)


def test_an_event_that_comes_late_is_reordered() -> None:
    log = whole_log()
    assert judge([log[0], log[2], log[1], *log[3:]], log, LINES) == Verdict(lost=0, doubled=0, gaps=0, reordered=1)


def test_a_step_that_was_done_again_is_doubled() -> None:
    log = whole_log()
    log[6:7] = [event(7, delta("one\n", "a"), 2), event(8, done("a"), 2), event(9, done("b"), 2)]
    log[-1] = event(10, state(pb.TASK_STATE_COMPLETED), 2)
    # The step, and the line that holds twice.
    assert judge(log, log, LINES) == Verdict(lost=0, doubled=2, gaps=0, reordered=0)


@pytest.mark.parametrize("cut", [1, 3])
def test_a_log_without_its_end_has_lost_it(cut: int) -> None:
    log = whole_log()[:-cut]
    # Both readers miss the end; the longer cut takes the second line, too.
    assert judge(log, log, LINES).lost == 2 + (cut == 3)


def test_readers_that_differ_in_content_have_lost_it() -> None:
    other = whole_log()
    other[3] = event(4, delta("to", "b"))
    assert judge(whole_log(), other, LINES) == Verdict(lost=1, doubled=0, gaps=0, reordered=0)
