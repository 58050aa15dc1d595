"""The query behind ListTasks, with `?` for each parameter."""

from typing import Any

from agentmesh_storage.adapters.rows import TASK_COLUMNS
from agentmesh_storage.domain import TaskFilter


def list_query(filter: TaskFilter) -> tuple[str, list[Any]]:
    """Return SQL and parameters for one row more than a page holds."""
    where, parameters = ["tenant = ?"], [filter.tenant]
    conditions: list[tuple[bool, str, tuple[Any, ...]]] = [
        (
            bool(filter.states),
            f"state IN ({', '.join('?' * len(filter.states))})",
            tuple(map(int, filter.states)),
        ),
        (bool(filter.agent), "agent = ?", (filter.agent,)),
        (bool(filter.context_id), "context_id = ? AND context_id <> ''", (filter.context_id,)),
        (bool(filter.parent_id), "parent_id = ? AND parent_id <> ''", (filter.parent_id,)),
        (bool(filter.schedule_id), "schedule_id = ? AND schedule_id <> ''", (filter.schedule_id,)),
        (filter.created_after_ms is not None, "create_ms >= ?", (filter.created_after_ms,)),
        (filter.created_before_ms is not None, "create_ms < ?", (filter.created_before_ms,)),
        (filter.by_end, "end_ms IS NOT NULL", ()),
    ]
    if filter.label is not None:
        labelled = "id IN (SELECT task_id FROM task_labels WHERE tenant = ? AND name = ? AND value = ?)"
        conditions.append((True, labelled, (filter.tenant, *filter.label)))
    if filter.after and filter.by_end:
        end, _, task_id = filter.after.partition(".")
        conditions.append((True, "(end_ms, id) < (?, ?)", (int(end), task_id)))
    elif filter.after:
        conditions.append((True, "id < ?", (filter.after,)))
    for holds, sql, values in conditions:
        if holds:
            where.append(sql)
            parameters.extend(values)
    order = "end_ms DESC, id DESC" if filter.by_end else "id DESC"
    sql = f"SELECT {TASK_COLUMNS} FROM tasks WHERE {' AND '.join(where)} ORDER BY {order} LIMIT ?"
    return sql, [*parameters, filter.page_size + 1]
