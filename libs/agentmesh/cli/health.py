"""`agentmesh health`: asks services whether they are ready, for health checks of containers that have no curl."""

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from agentmesh.cli import failures, probing
from agentmesh.cli.settings_options import load_settings, settings_options
from agentmesh.kit import config, names
from agentmesh.kit.settings import Settings


@click.command()
@click.argument("roles", metavar="[ROLE]...", nargs=-1, type=click.Choice(names.ROLES))
@click.option("--live", is_flag=True, help="Only whether they answer, ready or not.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(0.1, 60), default=3.0, help="Seconds; 3 by default.")
@settings_options
@click.option("--json", "as_json", is_flag=True, help="JSON, for scripts.")
@failures.reported
def health(
    roles: tuple[str, ...],
    live: bool,
    timeout_s: float,
    config_file: Path | None,
    data_dir: Path | None,
    first_port: int | None,
    as_json: bool,
) -> None:
    """Ask the services on this machine whether they are ready; exit with 1 unless all are.

    Without a ROLE, all five are asked. Each is asked where it listens: at its `health_port`, if it has one.
    """
    settings = load_settings(config_file, data_dir, first_port, config.UNUSED_BY["health"])
    answers = asyncio.run(_ask_all(settings, roles or names.ROLES, live, timeout_s))
    if as_json:
        print(json.dumps(answers))
    else:
        for role, answer in answers.items():
            print(f"{role:8} {answer}")
    sys.exit(failures.COMPLETED if set(answers.values()) == {probing.SERVING} else failures.FAILED)


async def _ask_all(settings: Settings, roles: tuple[str, ...], live: bool, timeout_s: float) -> Mapping[str, str]:
    answers = await asyncio.gather(*(probing.ask(settings, role, timeout_s=timeout_s, live=live) for role in roles))
    return dict(zip(roles, answers, strict=True))
