"""Brings storage's SQLite file up to date."""

import sqlite3
from pathlib import Path

from agentmesh.kit import migrations, sqlite_migrations
from agentmesh.kit.config import database_path
from agentmesh.kit.migrations import Migration
from agentmesh.kit.settings import Settings

_FOLDER = Path(__file__).parent / "migrations"


def shipped() -> list[Migration]:
    """Return the migrations that this release ships, in order."""
    return migrations.shipped(_FOLDER)


def pending(connection: sqlite3.Connection) -> list[Migration]:
    """See sqlite_migrations.pending."""
    return sqlite_migrations.pending(connection, shipped())


def migrate(connection: sqlite3.Connection) -> list[str]:
    """See sqlite_migrations.migrate."""
    return sqlite_migrations.migrate(connection, shipped())


def command(settings: Settings, action: str, dry_run: bool) -> list[dict[str, str]]:
    """See sqlite_migrations.command."""
    connection = sqlite3.connect(database_path(settings), isolation_level=None)
    try:
        return sqlite_migrations.command(connection, shipped(), action, dry_run)
    finally:
        connection.close()
