"""What the table says of recorded samples, and when a run counts as failed."""

import asyncio

import pytest

from agentmesh.api.task.v1 import events_pb2 as pb
from agentmesh.api.types.v1 import types_pb2
from agentmesh.client import Result
from tests.bench import report
from tests.bench.__main__ import main
from tests.bench.deployment import BUILT_IN
from tests.bench.figures import BadSample, Outcome, Sample
from tests.bench.lines import LINES, ROWS
from tests.bench.load import keep_in_flight, percentile
from tests.bench.proof import PROMPT, WrongAnswer, check
from tests.bench.run import MEASURES, PROXY_ROWS

_FACTS = {"machine": "a test"}


def _outcome(samples: dict[str, list[Sample]], *rows: str, faults: dict[str, str] | None = None) -> Outcome:
    return Outcome(rows, 3, samples, faults or {}, _FACTS, BUILT_IN)


def _all_at(ratio: float) -> dict[str, list[Sample]]:
    return {line.key: [Sample(ratio * 10, 10.0)] * 3 for line in LINES}


def test_every_row_that_the_release_promises_has_lines_and_a_measurement() -> None:
    assert set(ROWS) == {
        "B1",
        "B2",
        "B3",
        "B4",
        "B5",
        "B6",
        "B7",
        "B8",
        "B9",
        "B10",
        "B11",
        "B12",
        "B14",
        "B15",
        "B16",
        "B17",
    }
    assert {*MEASURES, *PROXY_ROWS, "B16"} == set(ROWS)


def test_the_ratio_is_of_pairs_timed_in_the_same_repeat_and_the_median_of_them_is_shown() -> None:
    slow_then_fast = [Sample(100, 100), Sample(400, 200), Sample(900, 300)]

    [_, figure] = _outcome({"B3/32": _all_at(1)["B3/32"], "B3/256": slow_then_fast}, "B3").figures

    assert (figure.ratio.low, figure.ratio.median, figure.ratio.high) == (1, 2, 3)
    assert figure.figure.median == 400
    assert figure.verdict == "floor"


@pytest.mark.parametrize(
    ("key", "figure", "verdict"),
    [
        ("B8/accept", 7.0, "goal"),
        ("B8/accept", 5.0, "floor"),
        ("B8/accept", 4.9, "below floor"),
        ("B16/start", 3.0, "goal"),
        ("B16/start", 5.0, "floor"),
        ("B16/start", 5.1, "below floor"),
    ],
)
def test_a_line_is_held_against_its_floor_in_the_direction_that_is_better(
    key: str, figure: float, verdict: str
) -> None:
    samples = _all_at(1) | {key: [Sample(figure, 10.0)] * 3}

    figures = {line.line.key: line for line in _outcome(samples, *ROWS).figures}

    assert figures[key].verdict == verdict


@pytest.mark.parametrize(
    ("figure_ms", "echo_ms", "verdict", "shown"),
    [
        (1.1, 0.28, "goal", "goal"),
        (1.9, 0.28, "floor", "floor"),
        (2.1, 0.28, "below floor", "below floor"),
        (1.9, 0.14, "below floor", "below floor; in ms floor"),
        (3.9, 0.56, "floor", "floor; in ms below floor"),
    ],
)
def test_a_time_is_held_as_a_multiple_of_an_echo_and_its_milliseconds_are_told(
    figure_ms: float, echo_ms: float, verdict: str, shown: str
) -> None:
    outcome = _outcome(_all_at(1) | {"B11/first-p50": [Sample(figure_ms, echo_ms)] * 3}, "B11")

    [figure] = [figure for figure in outcome.figures if figure.line.key == "B11/first-p50"]
    [line] = [line for line in report.as_page(outcome, "run").splitlines() if "first token" in line]

    assert figure.verdict == verdict
    assert f"| 7.14× (2 ms) | 4.29× (1.2 ms) | {shown} |" in line


def test_a_run_with_every_line_succeeds_below_the_floor_too_unless_it_is_strict() -> None:
    outcome = _outcome(_all_at(0.01), *ROWS)

    assert outcome.missing == []
    assert outcome.exit_code(strict=False) == 0
    assert outcome.exit_code(strict=True) == 1
    assert "below floor" in report.as_table(outcome)


def test_a_line_without_a_sample_of_every_repeat_is_missing_and_fails_the_run() -> None:
    samples = _all_at(3)
    samples["B2/pairs"] = samples["B2/pairs"][:2]

    outcome = _outcome(samples, *ROWS)

    assert outcome.missing == ["B2/pairs"]
    assert outcome.exit_code(strict=False) == 1
    assert "MISSING B2/pairs" in report.as_table(outcome)


def test_a_fault_in_one_repeat_fails_the_run_and_is_told() -> None:
    outcome = _outcome(_all_at(3), *ROWS, faults={"B7": "WrongAnswer: the replay has a gap"})

    assert outcome.exit_code(strict=False) == 1
    assert "FAILED B7: WrongAnswer: the replay has a gap" in report.as_table(outcome)


def test_the_page_names_its_command_and_has_a_line_for_each_line_of_the_table() -> None:
    page = report.as_page(_outcome(_all_at(3), *ROWS), "python -m tests.bench --write")

    assert "`python -m tests.bench --write`" in page
    assert sum(line.startswith("| B") for line in page.splitlines()) == len(LINES)


def test_a_measurement_that_is_not_a_number_is_refused() -> None:
    for figure, anchor in ((0.0, 1.0), (1.0, 0.0), (float("nan"), 1.0), (float("inf"), 1.0)):
        with pytest.raises(BadSample):
            Sample(figure, anchor)


def test_a_row_that_does_not_exist_and_a_page_of_half_a_run_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--only", "B99"], ["--write", "--quick"], ["--write", "--only", "B1"], ["--repeats", "0"]):
        with pytest.raises(SystemExit) as refused:
            main(arguments)
        assert refused.value.code == 2
        assert "error" in capsys.readouterr().err


async def test_a_load_counts_completed_calls_and_keeps_no_more_in_flight_than_asked() -> None:
    now = most = calls = 0

    async def call() -> int:
        nonlocal now, most, calls
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.001)
        now -= 1
        calls += 1
        return calls

    loaded = await keep_in_flight(call, 7, 0.05)

    assert most == 7
    assert len(loaded.latencies) == len(loaded.answers) == calls
    assert loaded.per_second == pytest.approx(calls / loaded.elapsed_s)


async def test_a_call_that_raises_ends_the_load_with_its_error() -> None:
    async def call() -> None:
        raise WrongAnswer("no")

    with pytest.raises(ExceptionGroup) as raised:
        await keep_in_flight(call, 2, 1.0)
    assert raised.group_contains(WrongAnswer)


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(number) for number in range(100, 0, -1)]

    assert percentile(values, 50) == 50
    assert percentile(values, 99) == 99
    assert percentile([3.0], 99) == 3


def test_an_answer_counts_only_with_exactly_its_events() -> None:
    check(_result(_said(2)), 2)
    wrong = (
        (_said(1), 1),  # a message too few
        (_said(3), 1),  # one too many
        (_said(2, text="hullo"), 1),  # other words
        (_said(2)[:-1], 1),  # no end
        (_said(2)[1:], 1),  # no beginning
        (_said(2), 2),  # the log begins late
        (_said(2, end=pb.TASK_STATE_FAILED), 1),
    )
    for events, first in wrong:
        with pytest.raises(WrongAnswer):
            check(_result(events, first), 2)


def _said(
    messages: int, *, text: str = PROMPT, end: pb.TaskState.ValueType = pb.TASK_STATE_COMPLETED
) -> list[pb.TaskEvent]:
    message = types_pb2.Message(role=types_pb2.ROLE_AGENT, parts=[types_pb2.Part(text=text)])
    ended = pb.StateChanged(state=end)
    ended.result.text = PROMPT
    return [
        pb.TaskEvent(state_changed=pb.StateChanged(state=pb.TASK_STATE_SUBMITTED)),
        *[pb.TaskEvent(message=message)] * messages,
        pb.TaskEvent(state_changed=ended),
    ]


def _result(events: list[pb.TaskEvent], first_sequence: int = 1) -> Result:
    return Result("task", [pb.EventChunk(task_id="task", attempt=1, first_sequence=first_sequence, events=events)])
