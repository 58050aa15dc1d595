"""Tasks as rows: one order of columns for reading and writing."""

from collections.abc import Iterable
from typing import Any

from agentmesh_storage.domain import Artifact, State, Task, Usage

_FIXED = (
    "id", "tenant", "agent", "spec", "create_ms", "priority", "request_id", "request_hash", "context_id",
    "parent_id", "parent_step", "retry_of", "traceparent", "timeout_ms",
)  # fmt: skip
_MOVING = (
    "state", "agent_version", "attempt", "failures", "losses", "last_sequence", "kept_sequence", "acked_offset",
    "incarnation", "ready_ms", "queue_deadline_ms", "start_ms", "deadline_ms", "end_ms", "cancel_ms", "result",
    "error", "input_request", "input_id",
)  # fmt: skip
_USAGE = ("input_tokens", "output_tokens", "cached_input_tokens", "llm_calls")
_COLUMNS = _FIXED + _MOVING + _USAGE
_STATE = len(_FIXED)
_PLAIN = len(_FIXED) + len(_MOVING)

TASK_COLUMNS = ", ".join(_COLUMNS)
INSERT_TASK = f"INSERT INTO tasks ({TASK_COLUMNS}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608
UPDATE_TASK = f"UPDATE tasks SET {', '.join(f'{c} = ?' for c in _MOVING + _USAGE)} WHERE id = ?"  # noqa: S608
ARTIFACT_COLUMNS = "id, tenant, task_id, name, media_type, size_bytes, sha256, create_ms, visible"


def to_task(row: tuple[Any, ...]) -> Task:
    """Read a task from a row of TASK_COLUMNS."""
    values = (*row[:_STATE], State(row[_STATE]), *row[_STATE + 1 : _PLAIN], Usage(*row[_PLAIN:]))
    return Task(*values)


def to_tasks(rows: Iterable[tuple[Any, ...]]) -> list[Task]:
    """Read tasks from rows of TASK_COLUMNS."""
    return [to_task(row) for row in rows]


def insert_values(t: Task) -> tuple[Any, ...]:
    """Return the values for INSERT_TASK."""
    return (
        t.id, t.tenant, t.agent, t.spec, t.create_ms, t.priority, t.request_id, t.request_hash, t.context_id,
        t.parent_id, t.parent_step, t.retry_of, t.traceparent, t.timeout_ms, *_moving(t),
    )  # fmt: skip


def update_values(task: Task) -> tuple[Any, ...]:
    """Return the values for UPDATE_TASK."""
    return (*_moving(task), task.id)


def to_artifact(row: tuple[Any, ...]) -> Artifact:
    """Read an artifact from a row of ARTIFACT_COLUMNS."""
    values = (*row[:-1], bool(row[-1]))
    return Artifact(*values)


def _moving(t: Task) -> tuple[Any, ...]:
    u = t.usage
    return (
        int(t.state), t.agent_version, t.attempt, t.failures, t.losses, t.last_sequence, t.kept_sequence,
        t.acked_offset, t.incarnation, t.ready_ms, t.queue_deadline_ms, t.start_ms, t.deadline_ms, t.end_ms,
        t.cancel_ms, t.result, t.error, t.input_request, t.input_id, u.input_tokens, u.output_tokens,
        u.cached_input_tokens, u.llm_calls,
    )  # fmt: skip
