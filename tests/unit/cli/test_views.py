"""What a person sees of a task: safe text, and nothing on screen that no longer holds."""

import io
import json

import pytest
from rich.console import Console

from agentmesh.api.task.v1 import events_pb2 as pb
from agentmesh.api.types.v1 import types_pb2
from agentmesh.cli.output import describe, event_json, printable, shortened, size_text, usage_line
from agentmesh.cli.views import LiveView, PlainView, View
from agentmesh.client import Event, Folder
from tests.support.fake_mesh import message, state


def delta(text: str) -> pb.TaskEvent:
    return pb.TaskEvent(text_delta=pb.TextDelta(text=text))


def started(attempt: int) -> pb.TaskEvent:
    return pb.TaskEvent(attempt_started=pb.AttemptStarted(attempt=attempt, supersedes_after_sequence=1))


def play(view: View, *events: pb.TaskEvent) -> None:
    folder = Folder()
    for sequence, event in enumerate(events, 1):
        retracted = folder.add(sequence, 1, event)
        view.show(Event("t", sequence, 1, event), folder, len(retracted))


def test_live_region_holds_only_what_still_holds() -> None:
    screen = io.StringIO()
    view = LiveView(Console(file=screen, force_terminal=True, width=80))
    play(view, state(pb.TASK_STATE_SUBMITTED), started(1), delta("lost words"))
    assert "lost words" in region(view)
    play(view, state(pb.TASK_STATE_SUBMITTED), started(1), delta("lost words"), started(2), delta("new words"))
    assert "lost words" not in region(view)
    assert "new words" in region(view)
    view.close()
    assert "2 of its events are taken back" in screen.getvalue()


def region(view: LiveView) -> str:
    """Return what the live region of a view draws now."""
    console = Console(file=io.StringIO(), width=80)
    with console.capture() as captured:
        console.print(view.region())
    return captured.get()


def test_plain_lines_are_whole_and_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    view = PlainView()
    play(view, delta("one "), delta("line\nhalf"), message("said"), delta("rest"))
    view.close()
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == "| one line\n| half\nsaid\n| rest\n"


def test_no_text_can_steer_the_terminal() -> None:
    assert printable("a\x1b]0;title\x07b\x9bc\r\nd\te\x7f") == "a]0;titlebc\nd\te"
    assert "\x1b" not in describe(message("\x1b[2J"))


def test_markup_in_a_message_is_shown_as_it_is() -> None:
    screen = io.StringIO()
    view = LiveView(Console(file=screen, force_terminal=False, width=80))
    play(view, message("[bold]x[/bold]"))
    view.close()
    assert "[bold]x[/bold]" in screen.getvalue()


def test_every_kind_of_event_but_text_has_a_line() -> None:
    quiet = {"text_delta", "reasoning_delta", "usage"}
    for field in pb.TaskEvent.DESCRIPTOR.oneofs_by_name["payload"].fields:
        event = pb.TaskEvent()
        getattr(event, field.name).SetInParent()
        if field.name == "message":
            event = message("x")
        elif field.name == "progress":
            event.progress.message = "reading"
        assert bool(describe(event)) == (field.name not in quiet), field.name


def test_json_line_is_protobuf_json_with_the_place_in_the_log() -> None:
    line = event_json(Event("t", 2**53 + 1, 3, delta("é")))
    assert json.loads(line) == {
        "taskId": "t",
        "sequence": "9007199254740993",
        "attempt": 3,
        "textDelta": {"text": "é"},
    }
    assert "\n" not in line


def test_numbers_are_for_people() -> None:
    assert [size_text(n) for n in (0, 1023, 1536, 5 * 2**20, 3 * 2**30)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "5.0 MiB",
        "3.0 GiB",
    ]
    assert usage_line(pb_usage()) == "2 model calls of m: 10 tokens in, 5 out"
    assert shortened("a  b\nc") == "a b c"
    assert len(shortened("x" * 500)) == 120


def pb_usage() -> types_pb2.Usage:
    return types_pb2.Usage(llm_calls=2, input_tokens=10, output_tokens=5, model="m")
