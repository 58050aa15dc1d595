"""A task killed anywhere says each thing once when its log is folded, and pays for no finished step again."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentmesh.api.llm.v1 import llm_service_pb2 as llm_pb
from agentmesh.api.runner.v1 import runner_service_pb2 as runner_pb
from agentmesh.api.task.v1 import events_pb2 as pb
from agentmesh.client.fold import Folder
from tests.unit.sdk.programs import PROGRAMS, Program, Storage, live, said_by

Entry = tuple[int, int, pb.TaskEvent]

LAGS = st.sampled_from([0, 1, 5, 40])


def folded(log: list[Entry]) -> list[Entry]:
    """Fold as events.proto says under AttemptStarted and TaskEvent.step."""
    kept: list[Entry] = []
    for sequence, attempt, event in log:
        if event.HasField("attempt_started"):
            after = event.attempt_started.supersedes_after_sequence
            standing = [entry for entry in kept if entry[0] <= after or entry[1] == 0]
            finished = {e.step_completed.key for _, _, e in standing if e.HasField("step_completed")}
            kept = [(s, a, e) for s, a, e in standing if a == 0 or not e.step or e.step in finished]
        kept.append((sequence, attempt, event))
    return kept


def texts(log: list[Entry]) -> list[str]:
    found = []
    for _, _, event in log:
        kind = event.WhichOneof("payload")
        if kind == "text_delta":
            found.append(event.text_delta.text)
        elif kind == "message":
            found.append(event.message.parts[0].text)
        assert kind != "log", event.log.message  # such as journal_mismatch
    return found


def states(log: list[Entry]) -> list[str]:
    changed = [event.state_changed.state for _, _, event in log if event.HasField("state_changed")]
    return [pb.TaskState.Name(state).removeprefix("TASK_STATE_") for state in changed]


def is_flat(program: Program) -> bool:
    """Say whether nothing finishes on its own inside of something else, so that the order can't change either."""
    inside = [kind for outer, program_ in program if outer == "step" for kind, _ in program_]
    return "gather" not in (kind for kind, _ in program) and not {"step", "gather", "llm", "now", "tool"} & set(inside)


def tools_of(program: Program) -> int:
    inside = sum(tools_of(inside) for kind, inside in program if kind == "step")
    branches = sum(tools_of(branch) for kind, inside in program if kind == "gather" for branch in inside)
    return inside + branches + sum(kind == "tool" for kind, _ in program)


def finished_prompts(journal: list[runner_pb.StepRecord]) -> set[str]:
    answers = [llm_pb.GenerateResponse.FromString(record.result) for record in journal if record.kind == "llm"]
    return {answer.message.parts[0].text.partition("<")[0] for answer in answers}


def lived(program: Program, crashes: list[int], lag: int) -> list[Entry]:
    """Run a program with attempts that die after so many commits, then to its end; return its log."""
    storage = Storage()
    for crash in (*crashes, None):
        finished = finished_prompts(storage.journal())
        life = live(program, storage, dies_after=crash, lag=lag)
        assert not finished & set(life.prompts), "a finished answer was paid again"
        assert max(storage.tool_runs.values(), default=0) <= 1, "a tool ran twice"
    return storage.log()


def check(program: Program, crashes: list[int], lag: int) -> None:
    log = lived(program, crashes, lag)
    assert [sequence for sequence, _, _ in log] == list(range(1, len(log) + 1))
    kept = folded(log)
    said = texts(kept)
    assert sorted(said) == sorted(said_by(program))
    for kind in ("tool_call", "tool_result"):
        shown = [getattr(event, kind).call_id for _, _, event in kept if event.HasField(kind)]
        assert len(shown) == len(set(shown)) == tools_of(program)
    if is_flat(program):
        assert said == texts(folded(lived(program, [], lag)))
    assert states(kept)[-1] == "COMPLETED"
    assert states(log).count("COMPLETED") == 1
    client = Folder()
    for sequence, attempt, event in log:
        client.add(sequence, attempt, event)
    assert client.events == kept


# A branch speaks while another finishes a step, and the first one's own step is under way.
_BRANCHES: Program = [
    ("gather", [[("emit", None), ("step", [("delta", None), ("tick", None), ("emit", None)])], [("llm", None)]]),
    ("delta", None),
]
# The next attempt skips the step, so that its branches speak in another order.
_ORDER: Program = [("gather", [[("step", [("tick", None)]), ("emit", None)], [("emit", None)]])]
# Steps in steps, and the same call twice.
_NESTED: Program = [
    ("step", [("delta", None), ("step", [("emit", None), ("delta", None)]), ("delta", None)]),
    ("emit", None),
    ("step", []),
    ("step", [("gather", [[("now", None)], [("step", [("emit", None)]), ("delta", None)]])]),
]

# Tools whose outcome an attempt leaves unknown, one of them inside a step that then finishes without it.
_TOOLS: Program = [
    ("tool", None),
    ("step", [("delta", None), ("tool", None), ("emit", None)]),
    ("gather", [[("tool", None), ("llm", None)], [("emit", None), ("tool", None)]]),
]


@settings(max_examples=60, deadline=None)
@given(PROGRAMS, LAGS)
@example(_BRANCHES, 0)
@example(_ORDER, 3)
@example(_NESTED, 0)
@example(_TOOLS, 0)
def test_a_task_killed_after_any_commit_says_each_thing_once(program: Program, lag: int) -> None:
    for crash in range(live(program, Storage(), lag=lag).commits):
        check(program, [crash], lag)


@settings(max_examples=80, deadline=None)
@given(PROGRAMS, st.lists(st.integers(0, 12), max_size=4), LAGS)
@example(_BRANCHES, [1, 2, 3], 0)
@example(_NESTED, [4, 1, 6], 5)
@example(_TOOLS, [1, 3, 2, 4], 0)
def test_a_task_killed_again_and_again_says_each_thing_once(program: Program, crashes: list[int], lag: int) -> None:
    check(program, crashes, lag)


def test_the_fold_keeps_what_came_from_outside_any_attempt() -> None:
    def event(**payload: object) -> pb.TaskEvent:
        return pb.TaskEvent(**payload)  # type: ignore[arg-type]

    log = [
        (1, 0, event(state_changed=pb.StateChanged(state=pb.TASK_STATE_SUBMITTED))),
        (2, 1, event(attempt_started=pb.AttemptStarted(attempt=1, supersedes_after_sequence=1))),
        (3, 1, event(text_delta=pb.TextDelta(text="dropped"))),
        (4, 0, event(child_task=pb.ChildTask(task_id="c"))),
        (5, 2, event(attempt_started=pb.AttemptStarted(attempt=2, supersedes_after_sequence=1))),
    ]
    assert [sequence for sequence, _, _ in folded(log)] == [1, 4, 5]
