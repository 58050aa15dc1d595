"""A folded log says each thing once, wherever its attempts were cut off."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from agentmesh.api.task.v1 import events_pb2 as pb
from agentmesh.api.types.v1 import types_pb2
from agentmesh.client import Folder

Event = pb.TaskEvent


def message(text: str, step: str = "", role: types_pb2.Role.ValueType = types_pb2.ROLE_AGENT) -> Event:
    return Event(step=step, message=types_pb2.Message(role=role, parts=[types_pb2.Part(text=text)]))


def delta(text: str, step: str = "") -> Event:
    return Event(step=step, text_delta=pb.TextDelta(text=text))


def completed(key: str) -> Event:
    return Event(step_completed=pb.StepCompleted(key=key))


def started(attempt: int, after: int) -> Event:
    return Event(attempt_started=pb.AttemptStarted(attempt=attempt, supersedes_after_sequence=after))


def fold(*log: tuple[int, Event]) -> tuple[Folder, list[list[int]]]:
    folder = Folder()
    return folder, [folder.add(sequence, attempt, event) for sequence, (attempt, event) in enumerate(log, 1)]


def test_new_attempt_drops_what_was_said_after_the_last_step() -> None:
    folder, retracted = fold(
        (0, message("given", role=types_pb2.ROLE_USER)),
        (1, message("kept")),
        (1, completed("a")),
        (1, message("dropped")),
        (1, message("dropped too")),
        (2, started(2, 3)),
        (2, message("said anew")),
    )
    assert retracted[5] == [4, 5]
    assert sum(map(len, retracted)) == 2
    assert folder.text() == "kept\nsaid anew"
    assert [sequence for sequence, _, _ in folder.events] == [1, 2, 3, 6, 7]


def test_step_that_had_not_finished_is_dropped_even_if_a_later_one_had() -> None:
    folder, retracted = fold(
        (1, delta("slow ", "slow")),
        (1, delta("fast ", "fast")),
        (1, completed("fast")),
        (2, started(2, 3)),
        (2, delta("slow anew", "slow")),
    )
    assert retracted[3] == [1]
    assert folder.text() == "fast slow anew"


def test_step_completed_after_the_line_does_not_save_its_events() -> None:
    _, retracted = fold((1, delta("a", "a")), (1, completed("b")), (1, completed("a")), (2, started(2, 2)))
    assert retracted[3] == [1, 3]


def test_event_from_outside_any_attempt_is_never_dropped() -> None:
    _, retracted = fold(
        (0, message("cancel asked")), (1, message("x")), (0, message("answer", "a")), (2, started(2, 1))
    )
    assert retracted[3] == [2]


def test_event_that_comes_again_is_ignored() -> None:
    folder = Folder()
    assert folder.add(1, 1, delta("a")) == []
    assert folder.add(1, 1, delta("a")) == []
    assert (folder.text(), folder.last_sequence) == ("a", 1)


def test_deltas_join_as_they_are_and_messages_stand_on_lines_of_their_own() -> None:
    folder, _ = fold((1, delta("one ")), (1, delta("two")), (1, message("three")), (1, delta("four")))
    assert folder.text() == "one two\nthree\nfour"


@dataclass
class Mesh:
    """Numbers what attempts of an agent say, as storage does."""

    log: list[tuple[int, Event]] = field(default_factory=list)
    kept_sequence: int = 1
    finished: set[str] = field(default_factory=set)
    recorded: int = 0  # plain messages said before the last finished step

    def say(self, attempt: int, event: Event) -> None:
        self.log.append((attempt, event))
        if event.HasField("step_completed"):
            self.kept_sequence = len(self.log)
            self.finished.add(event.step_completed.key)


@st.composite
def killed_runs(draw: st.DrawFn) -> tuple[list[int], list[tuple[int, Event]]]:
    """Run a program of rounds, each some steps at once and then a plain message, and kill it here and there."""
    rounds = draw(st.lists(st.integers(0, 3), min_size=1, max_size=4))
    mesh = Mesh()
    mesh.say(0, Event(state_changed=pb.StateChanged(state=pb.TASK_STATE_SUBMITTED)))
    for attempt in range(1, draw(st.integers(1, 5)) + 1):
        mesh.say(attempt, started(attempt, mesh.kept_sequence))
        budget = draw(st.integers(0, 12))
        if _attempt(draw, mesh, attempt, rounds, budget):
            return rounds, mesh.log
    mesh.say(99, started(99, mesh.kept_sequence))
    assert _attempt(draw, mesh, 99, rounds, 10_000)
    return rounds, mesh.log


def _attempt(draw: st.DrawFn, mesh: Mesh, attempt: int, rounds: list[int], budget: int) -> bool:
    for number, width in enumerate(rounds):
        left = {}
        for branch in range(width):
            key = f"{number}.{branch}"
            if key not in mesh.finished:
                left[key] = [delta(f"[{key}:{n}]", key) for n in range(2)] + [completed(key)]
        while left:
            if not budget:
                return False
            budget -= 1
            key = draw(st.sampled_from(sorted(left)))
            mesh.say(attempt, left[key].pop(0))
            if not left[key]:
                del left[key]
                mesh.recorded = number
        if number + 1 > mesh.recorded:
            if not budget:
                return False
            budget -= 1
            if draw(st.booleans()):
                mesh.say(0, message(f"outside {len(mesh.log)}", role=types_pb2.ROLE_USER))
            mesh.say(attempt, message(f"<{number}>"))
    return True


@given(killed_runs())
def test_task_killed_anywhere_says_each_thing_once_when_folded(
    run: tuple[list[int], list[tuple[int, Event]]],
) -> None:
    rounds, log = run
    folder = Folder()
    retracted: list[int] = []
    for sequence, (attempt, event) in enumerate(log, 1):
        retracted += folder.add(sequence, attempt, event)
    kept = [sequence for sequence, _, _ in folder.events]
    assert sorted(kept + retracted) == list(range(1, len(log) + 1))
    assert all(log[sequence - 1][0] for sequence in retracted)
    said: dict[str, list[str]] = {}
    for _, attempt, event in folder.events:
        if event.HasField("text_delta"):
            said.setdefault(event.step, []).append(event.text_delta.text)
        elif event.HasField("message") and attempt:
            said.setdefault("", []).append(event.message.parts[0].text)
    expected = {
        f"{number}.{branch}": [f"[{number}.{branch}:{n}]" for n in range(2)]
        for number, width in enumerate(rounds)
        for branch in range(width)
    }
    assert said == {**expected, "": [f"<{number}>" for number in range(len(rounds))]}
