"""The hot path's plans on a big table that was never analysed: by index, whatever the statistics say."""

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
    yield store
    await store.aclose()


async def fill(store: PostgresTaskStore) -> None:
    """Multiply one task by many, of which most wait and some run, for a thousand tenants."""
    driver = Driver(store)
    await driver.create()
    await store.pool.fetch("ALTER TABLE tasks SET (autovacuum_enabled = off)")
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


async def test_a_claim_steps_over_tenants_and_never_through_their_queues(store: PostgresTaskStore) -> None:
    await fill(store)
    async with store.pool.lend() as db:
        (row,) = await db.fetch(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql.WAITING_TENANTS}", "echo", -5, "t5", 256)
    read = 0

    def walk(node: dict[str, Any]) -> None:
        nonlocal read
        if node.get("Relation Name") == "tasks":
            read += (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
        for child in node.get("Plans", ()):
            walk(child)

    walk(json.loads(row[0])[0]["Plan"])
    assert read <= 300  # one row a tenant, of 17,000 that wait


async def test_a_thousand_waiting_tenants_are_served_in_turn(store: PostgresTaskStore) -> None:
    await fill(store)
    driver = Driver(store)
    await driver.runner()
    served = [c.task.tenant for _ in range(4) for c in await driver.claim(64)]
    assert len(set(served)) == len(served) == 256
    assert all(isinstance(c.task, d.Task) for c in await driver.claim(1))
