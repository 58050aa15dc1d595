"""Brings a SQLite file's schema up to date, for whichever service ships the migrations."""

import sqlite3
from collections.abc import Sequence

from agentmesh.kit import migrations
from agentmesh.kit.migrations import Applied, Migration

_TABLE = """CREATE TABLE IF NOT EXISTS schema_migrations (
  version INTEGER PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL, applied_time TEXT NOT NULL
)"""
_RUNS_WITH = "ALTER TABLE schema_migrations ADD COLUMN runs_with INTEGER NOT NULL DEFAULT 0"


def pending(connection: sqlite3.Connection, shipped: Sequence[Migration]) -> list[Migration]:
    """Return what is still to be applied; raise WrongState if the database is not of this line."""
    connection.execute(_TABLE)
    if "runs_with" not in {row[1] for row in connection.execute("PRAGMA table_info(schema_migrations)")}:
        connection.execute(_RUNS_WITH)
        connection.execute("UPDATE schema_migrations SET runs_with = version")
    rows = connection.execute("SELECT version, checksum, runs_with FROM schema_migrations").fetchall()
    return migrations.lacking(shipped, {version: Applied(checksum, oldest) for version, checksum, oldest in rows})


def migrate(connection: sqlite3.Connection, shipped: Sequence[Migration]) -> list[str]:
    """Apply what is pending, each migration in a transaction; return their names."""
    done = []
    for migration in pending(connection, shipped):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in _statements(migration.sql):
                connection.execute(statement)
            connection.execute(
                "INSERT INTO schema_migrations (version, name, checksum, applied_time, runs_with) "
                "VALUES (?, ?, ?, datetime('now'), ?)",
                (migration.version, migration.name, migration.checksum, migration.runs_with),
            )
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        done.append(migration.name)
    return done


def command(
    connection: sqlite3.Connection, shipped: Sequence[Migration], action: str, dry_run: bool
) -> list[dict[str, str]]:
    """Do what `agentmesh migrate status|up` asks; return each migration with applied, pending or done."""
    waiting = {migration.name for migration in pending(connection, shipped)}
    done = set(migrate(connection, shipped)) if action == "up" and not dry_run else set()
    return migrations.rows(shipped, waiting, done)


def _statements(sql: str) -> list[str]:
    statements, buffer = [], ""
    for line in sql.splitlines(keepends=True):
        buffer += line
        if sqlite3.complete_statement(buffer):
            statements.append(buffer)
            buffer = ""
    return statements
