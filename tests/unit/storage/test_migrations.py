import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentmesh.kit.errors import WrongState
from agentmesh.kit.settings import Settings
from agentmesh_storage.adapters.sqlite.migrate import command, migrate, pending, shipped
from agentmesh_storage.adapters.sqlite.store import SqliteTaskStore
from agentmesh_storage.rules import Rules


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(tmp_path / "tasks.db", isolation_level=None)
    yield connection
    connection.close()


def schema(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    return connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()


def test_migrations_are_numbered_from_1_without_gaps() -> None:
    assert [migration.version for migration in shipped()] == list(range(1, len(shipped()) + 1))


def test_migrating_twice_does_nothing_the_second_time(connection: sqlite3.Connection) -> None:
    assert migrate(connection) == [migration.name for migration in shipped()]
    made = schema(connection)
    assert migrate(connection) == []
    assert schema(connection) == made


def test_a_migration_that_was_edited_after_it_was_applied_is_refused(connection: sqlite3.Connection) -> None:
    migrate(connection)
    connection.execute("UPDATE schema_migrations SET checksum = 'edited' WHERE version = 1")
    with pytest.raises(WrongState) as refused:
        migrate(connection)
    assert refused.value.reason == "MIGRATION_EDITED"


def test_a_database_of_a_newer_release_is_refused_and_left_alone(
    connection: sqlite3.Connection, tmp_path: Path
) -> None:
    migrate(connection)
    connection.execute("INSERT INTO schema_migrations VALUES (9999, '9999_future', 'x', 'now', 9999)")
    made = schema(connection)
    with pytest.raises(WrongState) as refused:
        SqliteTaskStore(tmp_path / "tasks.db", Rules(max_losses=1))
    assert refused.value.reason == "DATABASE_TOO_NEW"
    assert schema(connection) == made


def test_a_newer_database_that_says_it_runs_with_this_release_is_used(connection: sqlite3.Connection) -> None:
    migrate(connection)
    newest = shipped()[-1].version
    connection.execute("INSERT INTO schema_migrations VALUES (?, 'next', 'x', 'now', ?)", (newest + 1, newest))
    assert pending(connection) == []


def test_storage_that_may_not_create_tables_refuses_an_empty_database(tmp_path: Path) -> None:
    with pytest.raises(WrongState) as refused:
        SqliteTaskStore(tmp_path / "tasks.db", Rules(max_losses=1), create_tables=False)
    assert refused.value.reason == "NOT_MIGRATED"


def test_a_migration_that_fails_half_way_leaves_nothing(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE artifacts (id)")  # in the way of the first migration's last table
    made = schema(connection)
    with pytest.raises(sqlite3.OperationalError):
        migrate(connection)
    assert [row for row in schema(connection) if "schema_migrations" not in row[0]] == made
    assert len(pending(connection)) == len(shipped())


def test_the_command_shows_what_is_pending_and_applies_it_only_when_told(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    statuses = [
        {row["status"] for row in command(settings, action, dry_run)}
        for action, dry_run in (("status", False), ("up", True), ("up", False), ("up", False), ("status", False))
    ]
    assert statuses == [{"pending"}, {"pending"}, {"done"}, {"applied"}, {"applied"}]
