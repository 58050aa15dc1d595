"""Migrations of PostgreSQL: one process at a time, each once, never edited, and a release runs on the next schema."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from click.testing import CliRunner

from agentmesh.cli.main import cli
from agentmesh.kit.errors import WrongState
from agentmesh.kit.settings import Database
from agentmesh_storage import domain as d
from agentmesh_storage.adapters.postgres.migrate import migrate, pending, shipped
from agentmesh_storage.adapters.postgres.pool import connect
from agentmesh_storage.adapters.postgres.store import open_store
from tests.contract.task_store_driver import RULES, Driver
from tests.support.postgres import Postgres


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Any]:
    connection = await connect(database_url)
    yield connection
    await connection.close()


async def applied(connection: Any) -> list[int]:
    return [row[0] for row in await connection.fetch("SELECT version FROM schema_migrations ORDER BY version")]


def test_migrations_are_numbered_from_1_without_gaps() -> None:
    assert [migration.version for migration in shipped()] == list(range(1, len(shipped()) + 1))


async def test_processes_that_start_together_apply_each_migration_once(database_url: str, connection: Any) -> None:
    others = await asyncio.gather(*(connect(database_url) for _ in range(5)))
    done = await asyncio.gather(*(migrate(other) for other in others))
    for other in others:
        await other.close()
    assert sorted(name for names in done for name in names) == [migration.name for migration in shipped()]
    assert await applied(connection) == [migration.version for migration in shipped()]


async def test_a_migration_that_was_edited_after_it_was_applied_is_refused(database_url: str, connection: Any) -> None:
    await migrate(connection)
    await connection.execute("UPDATE schema_migrations SET checksum = 'edited' WHERE version = 1")
    with pytest.raises(WrongState) as refused:
        await open_store(Database(url=database_url, create_tables=True), RULES)
    assert refused.value.reason == "MIGRATION_EDITED"


async def test_a_database_of_a_newer_release_is_refused_and_left_alone(database_url: str, connection: Any) -> None:
    await migrate(connection)
    await connection.execute(
        "INSERT INTO schema_migrations (version, name, checksum, runs_with) VALUES (99, 'future', 'x', 99)"
    )
    with pytest.raises(WrongState) as refused:
        await open_store(Database(url=database_url, create_tables=True), RULES)
    assert refused.value.reason == "DATABASE_TOO_NEW"


async def test_a_release_runs_on_the_schema_of_the_next_one(database_url: str, connection: Any) -> None:
    await migrate(connection)
    newest = shipped()[-1].version
    await connection.execute(
        "ALTER TABLE tasks ADD COLUMN next_release text NOT NULL DEFAULT ''; "
        "ALTER TABLE runners ADD COLUMN next_release integer; "
        f"INSERT INTO schema_migrations (version, name, checksum, runs_with) VALUES ({newest + 1}, 'n', 'x', {newest})"
    )
    store = await open_store(Database(url=database_url, create_tables=True), RULES)
    driver = Driver(store)
    task = await driver.started(labels={"a": "b"})
    await driver.do(driver.step(task, "s"))
    await driver.do(driver.ends(task, offset=1))
    assert (await driver.task(task)).state is d.State.COMPLETED
    await store.aclose()


async def test_storage_that_may_not_create_tables_refuses_an_empty_database(database_url: str) -> None:
    with pytest.raises(WrongState) as refused:
        await open_store(Database(url=database_url, create_tables=False), RULES)
    assert refused.value.reason == "NOT_MIGRATED"


async def test_a_wrong_password_is_said_at_once(postgres: Postgres) -> None:
    url = postgres.new_database().replace("mesh-password", "wrong")
    with pytest.raises(WrongState) as refused:
        await open_store(Database(url=url), RULES)
    assert refused.value.reason == "DATABASE_REFUSED"
    assert "wrong" not in refused.value.message


async def test_a_migration_that_fails_half_way_leaves_nothing_of_it(connection: Any) -> None:
    await connection.execute("CREATE TABLE artifact_pieces (id integer)")  # in the way of the first one's last table
    with pytest.raises(Exception, match="already exists"):
        await migrate(connection)
    assert await connection.fetchval("SELECT to_regclass('tasks')") is None
    assert len(await pending(connection)) == len(shipped())


def test_the_command_shows_what_is_pending_and_applies_it_only_when_told(
    database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.chdir(tmp_path)
    shown = []
    for arguments in (["status"], ["up", "--dry-run"], ["up"], ["status"]):
        done = CliRunner().invoke(cli, ["migrate", *arguments])
        assert done.exit_code == 0, done.output
        shown.append({word for word in ("pending", "done", "applied") if word in done.output})
    assert shown[0] == shown[1] == {"pending"}
    assert "done" in shown[2]
    assert shown[3] == {"applied"}
