"""How commands write: events and messages as JSON for scripts, as short lines for people."""

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from agentmesh.api.task.v1 import events_pb2, task_pb2
from agentmesh.api.types.v1 import types_pb2
from agentmesh.client import Event
from agentmesh.client.fold import text_of
from agentmesh.kit.usages import NANO

_MAX_SHOWN = 120


def print_json(message: Message) -> None:
    """Print a message as protobuf JSON."""
    print(json.dumps(json_format.MessageToDict(message), ensure_ascii=False, indent=2))


def print_new_task(task: task_pb2.Task, *, as_json: bool) -> None:
    """Print the id of a task that was just made, and say how to follow it."""
    if as_json:
        print_json(task)
    else:
        print(task.id)
        note(f"follow it with: agentmesh tasks watch {task.id}")


def event_json(event: Event) -> str:
    """Return an event as one line of protobuf JSON with its place in the log."""
    place = {"taskId": event.task_id, "sequence": str(event.sequence), "attempt": event.attempt}
    return json.dumps({**place, **json_format.MessageToDict(event.event)}, ensure_ascii=False)


def printable(text: str) -> str:
    """Drop control characters, so that no answer of a model can steer the terminal."""
    return "".join(c for c in text if c in "\n\t" or (c >= " " and not "\x7f" <= c <= "\x9f"))


def shortened(text: str) -> str:
    """Return the beginning of a text, on one line."""
    line = " ".join(printable(text).split())
    return line if len(line) <= _MAX_SHOWN else line[: _MAX_SHOWN - 1] + "…"


def state_word(state: events_pb2.TaskState.ValueType) -> str:
    """Return a state as a word."""
    return events_pb2.TaskState.Name(state).removeprefix("TASK_STATE_")


def describe(event: events_pb2.TaskEvent) -> str:
    """Return a line for an event; empty for pieces of text and for what is news to programs only."""
    match event.WhichOneof("payload"):
        case "state_changed":
            return _state(event.state_changed)
        case "attempt_started":
            started = event.attempt_started
            return f"attempt {started.attempt} on {started.runner} (agent version {started.agent_version})"
        case "message":
            return printable(text_of(event.message))
        case "tool_call":
            arguments = json.dumps(json_format.MessageToDict(event.tool_call.arguments), ensure_ascii=False)
            return f"tool {event.tool_call.name} {shortened(arguments)}"
        case "tool_result" if event.tool_result.HasField("error"):
            return f"tool {event.tool_result.name} failed: {shortened(event.tool_result.error.message)}"
        case "tool_result":
            answer = json.dumps(json_format.MessageToDict(event.tool_result.result), ensure_ascii=False)
            return f"tool {event.tool_result.name} → {shortened(answer)}"
        case "step_completed" if event.step_completed.kind != "value":
            step = event.step_completed
            return f"step {shortened(step.name or step.key)} done in {_seconds(step.elapsed.ToMilliseconds() / 1000)}"
        case "artifact":
            return f"artifact {artifact_line(event.artifact)}"
        case "child_task":
            child = event.child_task
            return f"child {child.agent} {child.task_id} {state_word(child.state)}"
        case "progress":
            share = f"{event.progress.fraction:4.0%} " if event.progress.fraction >= 0 else ""
            return f"{share}{shortened(event.progress.message)}".rstrip()
        case "log":
            return f"{event.log.level}: {shortened(event.log.message)}"
        case _:
            return ""


def artifact_line(artifact: types_pb2.Artifact) -> str:
    """Return an artifact's name, type and size."""
    return f"{shortened(artifact.name)} ({shortened(artifact.media_type)}, {size_text(artifact.size_bytes)})"


def usage_line(usage: types_pb2.Usage) -> str:
    """Return what was consumed; empty if nothing was."""
    if not usage.llm_calls and not usage.input_tokens and not usage.output_tokens:
        return ""
    cached = f" ({usage.cached_input_tokens} cached)" if usage.cached_input_tokens else ""
    model = f" of {usage.model}" if usage.model else ""
    calls = f"{usage.llm_calls} model call{'' if usage.llm_calls == 1 else 's'}"
    cost = f", ${usage.cost_nano_usd / NANO:.6f}" if usage.cost_nano_usd else ""
    return f"{calls}{model}: {usage.input_tokens} tokens in{cached}, {usage.output_tokens} out{cost}"


def size_text(size_bytes: int) -> str:
    """Return a size for people."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def time_text(time: Timestamp) -> str:
    """Return a moment in this machine's time zone; empty if it is not set."""
    if not time.seconds:
        return ""
    moment = datetime.fromtimestamp(time.seconds, UTC).astimezone()
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows in columns, as wide as what is in them."""
    lines = [tuple(head), *(tuple(map(printable, row)) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip())


def note(text: str) -> None:
    """Say something to the person, apart from the output."""
    print(text, file=sys.stderr, flush=True)


def _state(changed: events_pb2.StateChanged) -> str:
    word = state_word(changed.state)
    if changed.HasField("retry_time"):
        return f"attempt failed: {shortened(changed.error.message)}; the next one not before " + time_text(
            changed.retry_time
        )
    if changed.HasField("error"):
        return f"{word}: {shortened(changed.error.message)}"
    return word


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
