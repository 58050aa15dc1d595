"""The statements of the books, which PostgreSQL and SQLite both understand; parameters are `$1`, `$2` and so on."""

from collections.abc import Iterable, Sequence
from typing import Any

from agentmesh_llm.books.records import COUNTS, By, Entry, Limits, Totals, UsageQuery, UsageSum, VirtualKey

Statement = tuple[str, tuple[Any, ...]]

_KEY = (
    "id, tenant, name, sha256, hint, models, budget_day, budget_month, requests_per_minute, tokens_per_minute, "
    "created_ms, expires_ms, revoked_ms"
)
_KEY_PLACES = ", ".join(f"${at + 1}" for at in range(13))
ADD_KEY = f"INSERT INTO llm_keys ({_KEY}) VALUES ({_KEY_PLACES})"
KEY_BY_DIGEST = f"SELECT {_KEY} FROM llm_keys WHERE sha256 = $1"
KEY_BY_ID = f"SELECT {_KEY} FROM llm_keys WHERE id = $1"
KEYS = f"SELECT {_KEY} FROM llm_keys WHERE $1 IN ('', tenant) ORDER BY created_ms DESC, id LIMIT $2"
REVOKE = "UPDATE llm_keys SET revoked_ms = $3 WHERE id = $2 AND $1 IN ('', tenant) AND revoked_ms = 0 "
PRUNE_DAYS = "DELETE FROM llm_usage WHERE day < $1"
PRUNE_TASKS = "DELETE FROM llm_task_usage WHERE day < $1"


def _upsert(table: str, key: Sequence[str]) -> str:
    columns = (*key, *COUNTS)
    places = ", ".join(f"${at + 1}" for at in range(len(columns)))
    sums = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in COUNTS)
    head = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})"
    return f"{head} ON CONFLICT ({', '.join(key)}) DO UPDATE SET {sums}"


ADD_USAGE = _upsert("llm_usage", ("tenant", "day", "key_id", "model"))
ADD_TASK_USAGE = _upsert("llm_task_usage", ("tenant", "task_id", "day", "key_id", "model"))


def key_row(key: VirtualKey) -> tuple[Any, ...]:
    """Return the parameters of ADD_KEY."""
    limits = key.limits
    return (
        key.id,
        key.tenant,
        key.name,
        key.sha256,
        key.hint,
        "\n".join(key.models),
        limits.budget_day,
        limits.budget_month,
        limits.requests_per_minute,
        limits.tokens_per_minute,
        key.created_ms,
        key.expires_ms,
        key.revoked_ms,
    )


def to_key(row: Sequence[Any]) -> VirtualKey:
    """Read a key."""
    models = tuple(row[5].split("\n")) if row[5] else ()
    key_id, tenant, name, sha256, hint = row[:5]
    created_ms, expires_ms, revoked_ms = row[10:13]
    limits = Limits(*row[6:10])
    return VirtualKey(key_id, tenant, name, sha256, hint, models, limits, created_ms, expires_ms, revoked_ms)


def usage_rows(entries: Iterable[Entry]) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Return the parameters of ADD_USAGE and of ADD_TASK_USAGE; in an order that keeps writers from deadlocks."""
    days: dict[tuple[str, ...], Totals] = {}
    tasks = []
    for day, (tenant, key_id, model, task_id), totals in entries:
        days.setdefault((tenant, day, key_id, model), Totals()).add(totals)
        if task_id:
            tasks.append((tenant, task_id, day, key_id, model, *totals.values()))
    return [(*place, *totals.values()) for place, totals in sorted(days.items(), key=lambda item: item[0])], sorted(
        tasks
    )


def usage_query(query: UsageQuery) -> Statement:
    """Return the statement that adds up, one row more than the limit at most."""
    table = "llm_task_usage" if query.needs_tasks else "llm_usage"
    by = ", ".join(one.value for one in query.by)
    sums = ", ".join(f"CAST(coalesce(sum({name}), 0) AS bigint)" for name in COUNTS)
    where, parameters = ["day >= $1", "day <= $2"], [query.from_day, query.to_day]
    filters = {"tenant": query.tenant, "key_id": query.key_id, "model": query.model, "task_id": query.task_id}
    for column, value in filters.items():
        if value:
            parameters.append(value)
            where.append(f"{column} = ${len(parameters)}")
    head = f"SELECT {by + ', ' if by else ''}{sums} FROM {table} WHERE {' AND '.join(where)}"
    if not by:
        return head, tuple(parameters)
    order = by if query.by == (By.DAY,) else f"sum(cost_nano_usd) DESC, sum(input_tokens + output_tokens) DESC, {by}"
    return f"{head} GROUP BY {by} ORDER BY {order} LIMIT {query.limit + 1}", tuple(parameters)


def to_sum(query: UsageQuery, row: Sequence[Any]) -> UsageSum:
    """Read a row of `usage_query`."""
    width = len(query.by)
    return UsageSum(tuple(row[:width]), Totals(*row[width:]))
