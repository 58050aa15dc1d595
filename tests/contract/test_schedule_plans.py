"""What a sweep asks of schedules is found by index, however many schedules and tasks there are."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from agentmesh.kit.settings import Database
from agentmesh_storage.adapters.postgres import schedules as in_postgres
from agentmesh_storage.adapters.postgres.store import open_store
from agentmesh_storage.adapters.sqlite import schedules as in_sqlite
from agentmesh_storage.adapters.sqlite.migrate import migrate
from tests.contract.task_store_driver import RULES, START_MS, Driver
from tests.contract.test_schedules_store import new

_MANY = 3000


def test_sqlite_finds_what_is_due_by_index(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "tasks.db", isolation_level=None) as db:
        migrate(db)
        for statement, parameters in (
            (in_sqlite._DUE, {"now": 1}),
            (in_sqlite._TASKS, ("s", 1)),
            (in_sqlite._BY_REQUEST, ("t", "r")),
        ):
            steps = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]
            read = [step for step in steps if "schedules" in step or "tasks" in step]
            assert read
            assert [step for step in read if "USING" not in step] == []
    db.close()


@pytest.fixture
async def driver(database_url: str) -> Any:
    store = await open_store(Database(url=database_url, create_tables=True), RULES)
    yield Driver(store)
    await store.aclose()


async def test_postgresql_finds_what_is_due_by_index(driver: Driver) -> None:
    await driver.group(*(new() for _ in range(_MANY)))
    pool = driver.store.pool  # type: ignore[attr-defined]
    for statement, parameters in (
        (in_postgres._ANY_DUE, (START_MS,)),
        (in_postgres._LOCK_DUE, (START_MS,)),
        (in_postgres._ONE_UNFINISHED, ("s",)),
        (in_postgres._LOCK_UNFINISHED, ("s",)),
        (in_postgres._BY_REQUEST, ("t", "r")),
    ):
        async with pool.lend() as db:
            (row,) = await db.fetch(f"EXPLAIN (FORMAT JSON) {statement}", *parameters)
        found = list(nodes(json.loads(row[0])[0]["Plan"]))
        assert found, statement
        assert {kind for kind, _ in found} <= {"Index Scan", "Index Only Scan", "Bitmap Heap Scan"}, statement


def nodes(plan: dict[str, Any]) -> Any:
    """Yield how each table of a plan is read."""
    if plan.get("Relation Name") in ("schedules", "tasks"):
        yield plan["Node Type"], plan["Relation Name"]
    for child in plan.get("Plans", ()):
        yield from nodes(child)
