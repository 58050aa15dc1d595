"""Brings a database's schema up to date: numbered SQL files, each applied once and never edited again."""

import hashlib
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from agentmesh.kit.config import database_path
from agentmesh.kit.errors import WrongState
from agentmesh.kit.settings import Settings

_FOLDER = Path(__file__).parent / "migrations"
_TABLE = """CREATE TABLE IF NOT EXISTS schema_migrations (
  version INTEGER PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL, applied_time TEXT NOT NULL
)"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One SQL file."""

    version: int
    name: str
    sql: str
    checksum: str


def shipped() -> list[Migration]:
    """Return the migrations that this release ships, in order."""
    found = []
    for path in sorted(_FOLDER.glob("*.sql")):
        sql = path.read_text(encoding="utf-8")
        checksum = hashlib.sha256(sql.encode()).hexdigest()
        found.append(Migration(int(path.stem.partition("_")[0]), path.stem, sql, checksum))
    return found


def pending(connection: sqlite3.Connection) -> list[Migration]:
    """Return what is still to be applied; raise WrongState if the database is not of this line."""
    connection.execute(_TABLE)
    applied = dict(connection.execute("SELECT version, checksum FROM schema_migrations").fetchall())
    known = {migration.version: migration for migration in shipped()}
    if applied and max(applied) > max(known):
        raise WrongState("the database is newer than this release: run a newer agentmesh", reason="DATABASE_TOO_NEW")
    for version, checksum in applied.items():
        if known[version].checksum != checksum:
            raise WrongState(
                f"migration {version} was edited after it was applied: restore the shipped file",
                reason="MIGRATION_EDITED",
            )
    return [migration for version, migration in known.items() if version not in applied]


def migrate(connection: sqlite3.Connection) -> list[str]:
    """Apply what is pending, each migration in a transaction; return their names."""
    done = []
    for migration in pending(connection):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in _statements(migration.sql):
                connection.execute(statement)
            connection.execute(
                "INSERT INTO schema_migrations VALUES (?, ?, ?, datetime('now'))",
                (migration.version, migration.name, migration.checksum),
            )
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        done.append(migration.name)
    return done


def command(settings: Settings, action: str, dry_run: bool) -> list[dict[str, str]]:
    """Do what `agentmesh migrate status|up` asks; return each migration with applied, pending or done."""
    connection = sqlite3.connect(database_path(settings), isolation_level=None)
    try:
        waiting = {migration.name for migration in pending(connection)}
        done = set(migrate(connection)) if action == "up" and not dry_run else set()
    finally:
        connection.close()
    rows = []
    for migration in shipped():
        status = "done" if migration.name in done else "pending" if migration.name in waiting else "applied"
        rows.append({"name": migration.name, "status": status})
    return rows


def _statements(sql: str) -> list[str]:
    statements, buffer = [], ""
    for line in sql.splitlines(keepends=True):
        buffer += line
        if sqlite3.complete_statement(buffer):
            statements.append(buffer)
            buffer = ""
    return statements
