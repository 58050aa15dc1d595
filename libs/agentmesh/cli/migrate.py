"""`agentmesh migrate`: brings the database up to date; the services that keep something say how, by entry point."""

import importlib.metadata
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict

import click

from agentmesh.cli import failures
from agentmesh.cli.output import note, print_table
from agentmesh.cli.settings_options import load_settings, settings_options
from agentmesh.kit import config
from agentmesh.kit.errors import WrongState
from agentmesh.kit.settings import Settings

ENTRY_POINTS = "agentmesh.migrations"


class Migration(TypedDict):
    """A migration's name, and whether it is applied, pending, or was applied just now (done)."""

    name: str
    status: str


Command = Callable[[Settings, str, bool], Sequence[Migration]]


@click.command()
@click.argument("action", type=click.Choice(["status", "up"]), default="status")
@click.option("--dry-run", is_flag=True, help="Say what `up` would do, and do nothing.")
@settings_options
@click.option("--json", "as_json", is_flag=True, help="JSON, for scripts.")
@failures.reported
def migrate(
    action: str,
    dry_run: bool,
    config_file: Path | None,
    data_dir: Path | None,
    first_port: int | None,
    as_json: bool,
) -> None:
    """Show the database's migrations (status), or apply the missing ones (up)."""
    settings = load_settings(config_file, data_dir, first_port, config.UNUSED_BY["migrate"])
    backend = "sqlite" if settings.database.is_embedded else "postgresql"
    commands = commands_for(backend)
    if settings.database.is_embedded:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    migrations = [one for command in commands for one in command(settings, action, dry_run)]
    if as_json:
        print(json.dumps({"backend": backend, "migrations": migrations}))
        return
    print_table(("MIGRATION", "STATUS"), [(one["name"], one["status"]) for one in migrations])
    if any(one["status"] == "pending" for one in migrations):
        note("apply the pending ones with: agentmesh migrate up")


def commands_for(backend: str) -> list[Command]:
    """Find each service's command for a backend, storage's first; raise WrongState if none is installed."""
    entries = importlib.metadata.entry_points(group=ENTRY_POINTS)
    found = sorted((entry for entry in entries if entry.name.partition(".")[0] == backend), key=lambda one: one.name)
    if not found:
        raise WrongState(
            f"no migrations for {backend} are installed: install agentmesh with the extra `storage`",
            reason="NO_MIGRATIONS",
        )
    return [entry.load() for entry in found]
