"""The hot path's plans on a big table that was never analysed: by index, whatever the statistics say.

A plan outlives the table that it was made for: what was planned on an empty table is tried on the big one, too.
"""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agentmesh.kit.ids import new_id
from agentmesh.kit.settings import Database
from agentmesh_storage import domain as d
from agentmesh_storage.adapters.postgres import statements as sql
from agentmesh_storage.adapters.postgres.store import PostgresTaskStore, open_store
from agentmesh_storage.adapters.rows import MOVING
from tests.contract.task_store_driver import RULES, Driver

_MANY = 20_000


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[PostgresTaskStore]:
    store = await open_store(Database(url=database_url, create_tables=True), RULES)
    await leave_alone(store)
    yield store
    await store.aclose()


async def leave_alone(store: PostgresTaskStore) -> None:
    """Keep statistics from being gathered, which would also make every plan anew, as this does itself."""
    await store.pool.fetch("ALTER TABLE tasks SET (autovacuum_enabled = off)")


async def fill(store: PostgresTaskStore) -> None:
    """Multiply one task by many, of which most wait and some run, for a thousand tenants."""
    driver = Driver(store)
    await driver.create()
    same = ("agent", "spec", "create_ms", "priority", "request_hash", "context_id", "parent_id", "parent_step")
    same += ("retry_of", "traceparent", "timeout_ms", *(c for c in MOVING if c not in ("incarnation", "ready_ms")))
    columns = ", ".join(same)
    await store.pool.fetch(
        f"INSERT INTO tasks (id, tenant, request_id, incarnation, ready_ms, {columns}) SELECT 'many-' || n, "
        "'t' || n % 1000, 'r' || n, CASE WHEN n % 7 = 0 THEN 'x~' || n % 50 ELSE '' END, "
        f"CASE WHEN n % 7 = 0 THEN NULL ELSE ready_ms END, {columns} FROM tasks, generate_series(1, {_MANY}) AS n"
    )


async def scans(store: PostgresTaskStore, statement: str, *parameters: Any) -> set[str]:
    """Return how a statement reads the tables of the hot path."""
    async with store.pool.lend() as db:
        (row,) = await db.fetch(f"EXPLAIN (FORMAT JSON) {statement}", *parameters)
    found: set[str] = set()

    def walk(node: dict[str, Any]) -> None:
        if node.get("Relation Name") in ("tasks", "event_chunks", "steps", "runners"):
            found.add(node["Node Type"])
        for child in node.get("Plans", ()):
            walk(child)

    walk(json.loads(row[0])[0]["Plan"])
    return found


async def test_what_the_hot_path_reads_and_locks_is_found_by_index(store: PostgresTaskStore) -> None:
    await fill(store)
    ids = [new_id() for _ in range(64)]
    for statement, parameters in (
        (sql.LOCK_TASKS, (ids, ids)),
        (sql.LOCK_LEASED, ("x~1",)),
        (sql.LOCK_CHILDREN, (ids[0],)),
        (sql.LOCK_CHOSEN, (ids,)),
        (sql.REQUESTS, (["t1"], ["r1"])),
        (sql.PARENT_STEPS, (ids, ids)),
        (sql.ANSWERED, (ids, ids)),
        (sql.PRIORITIES, ("echo",)),
        (sql.WAITING_TENANTS, ("echo", -5, "t5", 256)),
        (sql.READY, ("echo", -5, ["t1", "t2"], 64)),
        (sql.BACKLOG, (100,)),
        *((statement, (1,)) for statement in sql.OVERDUE),
    ):
        used = await scans(store, statement, *parameters)
        assert used <= {"Index Scan", "Index Only Scan", "Bitmap Heap Scan"}, statement
        assert used, statement


async def test_a_batchs_write_finds_its_rows_by_index(store: PostgresTaskStore) -> None:
    await fill(store)
    columns = [[] for _ in range(1 + len(MOVING))]
    used = await scans(store, sql.write_statement(("changed",)), *columns)
    assert "Seq Scan" not in used


async def planned_while_empty(db: Any, statement: str, types: tuple[str, ...]) -> str:
    """Prepare a statement and run it once, as the first caller does; return what runs it again."""
    name = f"planned_{abs(hash(statement))}"
    await db.execute(f"PREPARE {name} ({', '.join(types)}) AS {statement}")
    nothing = ", ".join("'{}'" if kind.endswith("[]") else "'1'" for kind in types)
    await db.execute(f"EXECUTE {name} ({nothing})")
    return name


def rows_read(plan: dict[str, Any]) -> int:
    """Return how many rows of `tasks` a plan read, used or not."""
    read = sum(map(rows_read, plan.get("Plans", ())))
    if plan.get("Relation Name") == "tasks":
        read += (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)) * plan["Actual Loops"]
    return int(read)


IDS = "'{" + ",".join(f"many-{n}" for n in range(1, 65)) + "}'"


@pytest.mark.parametrize(
    ("statement", "types", "arguments"),
    [
        pytest.param(sql.LOCK_TASKS, ("text[]", "text[]"), f"{IDS}, {IDS}", id="lock"),
        pytest.param(sql.LOCK_CHOSEN, ("text[]",), IDS, id="chosen"),
        pytest.param(sql.REQUESTS, ("text[]", "text[]"), "ARRAY['t1', 't2'], ARRAY['r1', 'r2']", id="requests"),
        pytest.param(sql.PARENT_STEPS, ("text[]", "text[]"), f"{IDS}, {IDS}", id="steps"),
        pytest.param(sql.LOCK_CHILDREN, ("text",), "'many-1'", id="children"),
        pytest.param(sql.MAKE_DUE, ("bigint",), "1", id="due"),
        pytest.param(
            sql.READY, ("text", "integer", "text[]", "bigint"), "'echo', -5, ARRAY['t1', 't2'], 8", id="ready"
        ),
    ],
)
async def test_what_was_planned_on_an_empty_table_reads_little_of_a_big_one(
    store: PostgresTaskStore, statement: str, types: tuple[str, ...], arguments: str
) -> None:
    async with store.pool.lend() as db:
        name = await planned_while_empty(db, statement, types)
        await fill(store)
        (row,) = await db.fetch(f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE {name} ({arguments})")
    assert rows_read(json.loads(row[0])[0]["Plan"]) <= 3 * 64


async def test_a_write_that_was_planned_on_an_empty_table_looks_its_rows_up(store: PostgresTaskStore) -> None:
    types = tuple(f"{sql.TYPES[column]}[]" for column in ("id", *MOVING))
    async with store.pool.lend() as db:
        name = await planned_while_empty(db, sql.write_statement(("changed",)), types)
        (row,) = await db.fetch(f"EXPLAIN (FORMAT JSON) EXECUTE {name} ({', '.join(['NULL'] * len(types))})")
    plan = json.loads(row[0])[0]["Plan"]
    assert conditions(plan)
    assert all("id = ANY" in condition for condition in conditions(plan)), plan


def conditions(plan: dict[str, Any]) -> list[str]:
    """Return by which condition each read of `tasks` finds its rows; "" for all of them."""
    found = [condition for child in plan.get("Plans", ()) for condition in conditions(child)]
    if plan.get("Relation Name") == "tasks" and plan["Node Type"] != "ModifyTable":
        found.append(plan.get("Index Cond") or plan.get("Recheck Cond") or "")
    return found


async def test_plans_are_made_anew_as_tables_grow(database_url: str) -> None:
    naive = "SELECT id FROM tasks WHERE id IN (SELECT unnest($1))"
    read = {}
    for replan_s in (60.0, 0.0):
        settings = Database(url=database_url, create_tables=True, pool_size=1, max_overflow=0)
        store = await open_store(settings, RULES, replan_s=replan_s)
        await leave_alone(store)
        await store.pool.fetch("TRUNCATE tasks")
        async with store.pool.lend() as db:
            name = await planned_while_empty(db, naive, ("text[]",))
        await fill(store)
        async with store.pool.lend() as db:
            (row,) = await db.fetch(f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE {name} ({IDS})")
        read[replan_s] = rows_read(json.loads(row[0])[0]["Plan"])
        await store.aclose()
    assert read[60.0] > _MANY  # or this test shows nothing
    assert read[0.0] <= 64


async def test_a_claim_steps_over_tenants_and_never_through_their_queues(store: PostgresTaskStore) -> None:
    await fill(store)
    async with store.pool.lend() as db:
        (row,) = await db.fetch(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql.WAITING_TENANTS}", "echo", -5, "t5", 256)
    read = rows_read(json.loads(row[0])[0]["Plan"])
    assert read <= 300  # one row a tenant, of 17,000 that wait


async def test_a_thousand_waiting_tenants_are_served_in_turn(store: PostgresTaskStore) -> None:
    await fill(store)
    driver = Driver(store)
    await driver.runner()
    served = [c.task.tenant for _ in range(4) for c in await driver.claim(64)]
    assert len(set(served)) == len(served) == 256
    assert all(isinstance(c.task, d.Task) for c in await driver.claim(1))
