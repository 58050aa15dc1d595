"""The SQL of the hot path: what a batch of mutations reads and locks, and the one statement that writes it."""

from collections.abc import Sequence
from functools import cache

from agentmesh_storage.adapters.rows import CANDIDATE_COLUMNS, COLUMNS, MOVING, TASK_COLUMNS

TYPES = {
    **dict.fromkeys(COLUMNS, "bigint"),
    **dict.fromkeys(
        ("id", "tenant", "agent", "request_id", "context_id", "parent_id", "parent_step", "retry_of", "traceparent",
         "agent_version", "incarnation", "router", "input_id", "limited_by", "schedule_id"), "text"
    ),
    **dict.fromkeys(("spec", "request_hash", "result", "error", "input_request"), "bytea"),
    **dict.fromkeys(("priority", "state", "attempt", "failures", "losses"), "integer"),
    **dict.fromkeys(("due", "request_open"), "boolean"),
}  # fmt: skip

_PARTS = {
    "labels": ("task_labels", ("tenant", "name", "value", "task_id"), ("text", "text", "text", "text")),
    "chunks": (
        "event_chunks",
        ("task_id", "first_sequence", "attempt", "count", "events"),
        ("text", "bigint", "integer", "integer", "bytea"),
    ),
    "steps": ("steps", ("task_id", "sequence", "key", "record"), ("text", "bigint", "text", "bytea")),
}
PARTS = ("created", "changed", *_PARTS)
"""What one write consists of, in the order of its parameters: a list of values for each column of each part."""

_T = f"SELECT {', '.join(f't.{column}' for column in COLUMNS)} FROM tasks AS t"
# Locked in the order of their ids, so that two batches wait for each other in one direction only. Parents of $2 are
# locked with their children, because a child's end is written into its parent's log. Arrays, here and below, and not
# joins: a join that is planned while the table is empty reads all of it, however big it has become.
LOCK_TASKS = f"""
{_T} WHERE t.id = ANY($1::text[] || ARRAY(
  SELECT parent_id FROM tasks WHERE id = ANY($2::text[]) AND parent_id <> ''
)) ORDER BY t.id FOR NO KEY UPDATE"""
LOCK_LEASED = f"{_T} WHERE t.incarnation = $1 AND t.incarnation <> '' ORDER BY t.id FOR NO KEY UPDATE"
LOCK_CHILDREN = (
    f"{_T} WHERE t.parent_id = $1 AND t.parent_id <> '' AND t.end_ms IS NULL ORDER BY t.id FOR NO KEY UPDATE"
)
LOCK_CHOSEN = f"""
{_T} WHERE t.id = ANY($1::text[]) AND t.ready_ms IS NOT NULL AND t.due AND t.incarnation = ''
ORDER BY t.id FOR NO KEY UPDATE SKIP LOCKED"""
REQUESTS = f"""
SELECT found.* FROM unnest($1::text[], $2::text[]) AS asked (tenant, request_id) CROSS JOIN LATERAL (
  {_T} WHERE t.tenant = asked.tenant AND t.request_id = asked.request_id AND t.request_id <> '' AND t.request_open
  LIMIT 1) AS found"""
PARENT_STEPS = f"""
SELECT found.* FROM unnest($1::text[], $2::text[]) AS asked (parent_id, step) CROSS JOIN LATERAL (
  {_T} WHERE t.parent_id = asked.parent_id AND t.parent_step = asked.step AND t.parent_id <> '' LIMIT 1) AS found"""
ANSWERED = """
SELECT asked.task_id, asked.key FROM unnest($1::text[], $2::text[]) AS asked (task_id, key) CROSS JOIN LATERAL (
  SELECT FROM steps AS s WHERE s.task_id = asked.task_id AND s.key = asked.key LIMIT 1) AS found"""

_RUNNER = "SELECT incarnation, name, lease_until_ms, freed FROM runners"
RUNNERS = f"{_RUNNER} WHERE incarnation = ANY($1::text[])"
# A claim holds on to the lease until it is committed; only freeing it has to wait for that.
SHARE_RUNNERS = f"{RUNNERS} ORDER BY incarnation FOR KEY SHARE"
LOCK_RUNNERS = f"""
{_RUNNER} WHERE incarnation = ANY($1::text[]) OR (name = ANY($2::text[]) AND NOT freed)
ORDER BY incarnation FOR UPDATE"""
LOCK_EXPIRED = f"{_RUNNER} WHERE NOT freed AND lease_until_ms < $1 ORDER BY incarnation FOR UPDATE SKIP LOCKED"
WRITE_RUNNERS = """
INSERT INTO runners (incarnation, name, lease_until_ms, freed)
SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::boolean[])
ON CONFLICT (incarnation) DO UPDATE SET lease_until_ms = excluded.lease_until_ms, freed = excluded.freed"""
WRITE_AGENTS = """
INSERT INTO agents (name, agent) SELECT * FROM unnest($1::text[], $2::bytea[])
ON CONFLICT (name) DO UPDATE SET agent = excluded.agent"""
SHOW_ARTIFACTS = "UPDATE artifacts SET visible = true WHERE id = ANY($1::text[])"
COPY_JOURNAL = """
INSERT INTO steps (task_id, sequence, key, record)
SELECT $1, sequence - 1000000000, key, record FROM steps WHERE task_id = $2"""

IS_DUE = "ready_ms IS NOT NULL AND due"
# Steps from one priority, or tenant, to the next in the index, past everything between.
PRIORITIES = f"""
WITH RECURSIVE waiting (urgency) AS (
  (SELECT -priority FROM tasks WHERE agent = $1 AND {IS_DUE} ORDER BY (-priority) LIMIT 1)
  UNION ALL
  SELECT after.urgency FROM waiting AS w CROSS JOIN LATERAL (
    SELECT -priority AS urgency FROM tasks WHERE agent = $1 AND {IS_DUE} AND (-priority) > w.urgency
    ORDER BY (-priority) LIMIT 1
  ) AS after
)
SELECT -urgency FROM waiting"""
_TENANT = f"SELECT tenant FROM tasks WHERE agent = $1 AND {IS_DUE} AND (-priority) = $2"
# From the tenant $3 on, then those before it.
WAITING_TENANTS = f"""
WITH RECURSIVE later (tenant) AS (
  ({_TENANT} AND tenant >= $3 ORDER BY tenant LIMIT 1)
  UNION ALL
  SELECT after.tenant FROM later AS l CROSS JOIN LATERAL (
    {_TENANT} AND tenant > l.tenant ORDER BY tenant LIMIT 1) AS after
), earlier (tenant) AS (
  ({_TENANT} AND tenant < $3 ORDER BY tenant LIMIT 1)
  UNION ALL
  SELECT after.tenant FROM earlier AS e CROSS JOIN LATERAL (
    {_TENANT} AND tenant > e.tenant AND tenant < $3 ORDER BY tenant LIMIT 1) AS after
)
SELECT tenant FROM later UNION ALL SELECT tenant FROM earlier LIMIT $4"""
READY = f"""
SELECT ready.* FROM unnest($3::text[]) AS asked (tenant) CROSS JOIN LATERAL (
  SELECT {CANDIDATE_COLUMNS} FROM tasks
  WHERE agent = $1 AND {IS_DUE} AND (-priority) = $2 AND tenant = asked.tenant ORDER BY ready_ms, id LIMIT $4
) AS ready"""
READY_AGENTS = f"""
SELECT name FROM agents CROSS JOIN LATERAL (SELECT FROM tasks WHERE agent = name AND {IS_DUE} LIMIT 1) AS found"""
MAKE_DUE = """
UPDATE tasks SET due = true WHERE id = ANY(ARRAY(
  SELECT id FROM tasks WHERE ready_ms IS NOT NULL AND NOT due AND ready_ms <= $1
  ORDER BY ready_ms LIMIT 500 FOR NO KEY UPDATE SKIP LOCKED))"""
RUNNING = (
    "SELECT tenant, agent, limited_by, count(*) FROM tasks WHERE incarnation <> '' GROUP BY tenant, agent, limited_by"
)
BACKLOG = f"""
WITH RECURSIVE tenants (tenant) AS (
  (SELECT tenant FROM tasks WHERE {IS_DUE} ORDER BY tenant LIMIT 1)
  UNION ALL
  SELECT after.tenant FROM tenants AS t CROSS JOIN LATERAL (
    SELECT tenant FROM tasks WHERE {IS_DUE} AND tenant > t.tenant ORDER BY tenant LIMIT 1) AS after
)
SELECT tenant, (SELECT count(*) FROM (SELECT 1 FROM tasks WHERE tenant = t.tenant AND {IS_DUE} LIMIT $1) AS counted)
FROM tenants AS t"""
# Each part reads a partial index that holds only the tasks it is about.
OVERDUE = tuple(
    f"{_T} WHERE {condition} ORDER BY t.id LIMIT 500 FOR NO KEY UPDATE SKIP LOCKED"
    for condition in (
        "t.queue_deadline_ms IS NOT NULL AND t.queue_deadline_ms < $1",
        "t.incarnation <> '' AND t.deadline_ms < $1::bigint - 5000",  # runner and router had their chance
        "t.end_ms IS NULL AND t.incarnation = '' AND t.ready_ms IS NULL AND t.deadline_ms < $1",
    )
)
BY_ID = f"SELECT {TASK_COLUMNS} FROM tasks WHERE id = $1 AND tenant = $2"


@cache
def write_statement(parts: tuple[str, ...]) -> str:
    """Return the statement that writes these parts; it returns how many tasks were inserted.

    A task whose request_id somebody else has just taken is not inserted; the caller then starts over.
    """
    steps: list[str] = []
    number = 1
    for part in parts:
        if part == "created":
            values = _unnest([TYPES[column] for column in COLUMNS], number)
            steps.append(
                f"created AS (INSERT INTO tasks ({TASK_COLUMNS}) SELECT * FROM {values} "
                "ON CONFLICT (tenant, request_id) WHERE request_id <> '' AND request_open DO NOTHING RETURNING 1)"
            )
            number += len(COLUMNS)
        elif part == "changed":
            columns = ("id", *MOVING)
            values = _unnest([TYPES[column] for column in columns], number)
            new = ", ".join(f"{column} = new.{column}" for column in MOVING)
            steps.append(
                f"changed AS (UPDATE tasks SET {new} FROM {values} AS new ({', '.join(columns)}) "
                f"WHERE tasks.id = new.id AND tasks.id = ANY(${number}::text[]))"
            )
            number += len(columns)
        else:
            table, names, types = _PARTS[part]
            values = _unnest(types, number)
            steps.append(
                f"{part} AS (INSERT INTO {table} ({', '.join(names)}) SELECT * FROM {values} ON CONFLICT DO NOTHING)"
                if part == "steps"
                else f"{part} AS (INSERT INTO {table} ({', '.join(names)}) SELECT * FROM {values})"
            )
            number += len(names)
    count = "(SELECT count(*) FROM created)" if "created" in parts else "0::bigint"
    return f"WITH {', '.join(steps)} SELECT {count}"


def _unnest(types: Sequence[str], first: int) -> str:
    return f"unnest({', '.join(f'${first + at}::{name}[]' for at, name in enumerate(types))})"
