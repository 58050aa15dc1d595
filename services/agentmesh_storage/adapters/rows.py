"""Tasks as rows: one order of columns for reading and writing, over every backend."""

from collections.abc import Iterable, Sequence
from typing import Any

from agentmesh_storage.domain import Artifact, Head, State, Task, Usage

FIXED = (
    "id", "tenant", "agent", "spec", "create_ms", "priority", "request_id", "request_hash", "context_id",
    "parent_id", "parent_step", "retry_of", "traceparent", "timeout_ms", "schedule_id",
)  # fmt: skip
_MOVING = (
    "state", "agent_version", "attempt", "failures", "losses", "last_sequence", "kept_sequence", "acked_offset",
    "incarnation", "router", "ready_ms", "due", "queue_deadline_ms", "start_ms", "deadline_ms", "end_ms", "cancel_ms",
    "result", "error", "input_request", "input_id", "limited_by", "pruned_sequence", "request_open",
)  # fmt: skip
_USAGE = (
    "input_tokens", "output_tokens", "cached_input_tokens", "llm_calls", "cache_write_tokens", "reasoning_tokens",
    "cost_nano_usd",
)  # fmt: skip
MOVING = _MOVING + _USAGE
COLUMNS = FIXED + MOVING
_STATE = len(FIXED)
_DUE = COLUMNS.index("due")
_OPEN = COLUMNS.index("request_open")
_PLAIN = len(FIXED) + len(_MOVING)

TASK_COLUMNS = ", ".join(COLUMNS)
ARTIFACT_COLUMNS = "id, tenant, task_id, name, media_type, size_bytes, sha256, create_ms, visible"
HEAD_COLUMNS = "tenant, id, last_sequence, state, attempt, cancel_ms IS NOT NULL, parent_id"
CANDIDATE_COLUMNS = "id, tenant, priority, agent_version, limited_by"


def to_task(row: Sequence[Any]) -> Task:
    """Read a task from a row of TASK_COLUMNS."""
    values = list(row[:_PLAIN])
    values[_STATE], values[_DUE], values[_OPEN] = State(row[_STATE]), bool(row[_DUE]), bool(row[_OPEN])
    values.append(Usage(*row[_PLAIN:]))
    return Task(*values)


def to_tasks(rows: Iterable[Sequence[Any]]) -> list[Task]:
    """Read tasks from rows of TASK_COLUMNS."""
    return [to_task(row) for row in rows]


def insert_values(t: Task) -> tuple[Any, ...]:
    """Return a task's values in the order of COLUMNS."""
    return (
        t.id, t.tenant, t.agent, t.spec, t.create_ms, t.priority, t.request_id, t.request_hash, t.context_id,
        t.parent_id, t.parent_step, t.retry_of, t.traceparent, t.timeout_ms, t.schedule_id, *moving_values(t),
    )  # fmt: skip


def moving_values(t: Task) -> tuple[Any, ...]:
    """Return the values that change, in the order of MOVING."""
    u = t.usage
    return (
        int(t.state), t.agent_version, t.attempt, t.failures, t.losses, t.last_sequence, t.kept_sequence,
        t.acked_offset, t.incarnation, t.router, t.ready_ms, t.due, t.queue_deadline_ms, t.start_ms, t.deadline_ms,
        t.end_ms, t.cancel_ms, t.result, t.error, t.input_request, t.input_id, t.limited_by, t.pruned_sequence,
        t.request_open, u.input_tokens, u.output_tokens, u.cached_input_tokens, u.llm_calls,
        u.cache_write_tokens, u.reasoning_tokens, u.cost_nano_usd,
    )  # fmt: skip


def to_head(row: Sequence[Any]) -> Head:
    """Read where a task's log ends from a row of HEAD_COLUMNS; whoever made it grow is not kept."""
    tenant, task_id, last_sequence, state, attempt, cancel_requested, parent_id = row
    return Head(tenant, task_id, last_sequence, State(state), attempt, bool(cancel_requested), parent_id, "")


def to_artifact(row: Sequence[Any]) -> Artifact:
    """Read an artifact from a row of ARTIFACT_COLUMNS."""
    values = (*row[:-1], bool(row[-1]))
    return Artifact(*values)
