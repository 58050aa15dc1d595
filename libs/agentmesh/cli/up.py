"""`agentmesh up`: the whole mesh on this machine."""

import asyncio
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from agentmesh.cli.supervisor import START_ORDER, Supervisor, ports_from
from agentmesh.kit import config, config_source, lifecycle, names


@click.command()
@click.option("--ports-from", type=click.IntRange(1, 65526), help="Services take ports N to N+4, metrics N+5 to N+9.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Data folder; ./.agentmesh by default.")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="Configuration file.")
@click.option(
    "--agents", multiple=True, type=click.Path(path_type=Path, exists=True), help="A file or folder of agents."
)
@click.option("--reload", is_flag=True, help="Restart the runner when its agents' code changes.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for scripts.")
def up(
    ports_from: int | None,
    data_dir: Path | None,
    config_file: Path | None,
    agents: tuple[Path, ...],
    reload: bool,
    as_json: bool,
) -> None:
    """Run router, runner, llm-proxy, storage and gateway until Ctrl-C.

    Services that die are started again. SIGTERM and Ctrl-C let running tasks end first; a second Ctrl-C doesn't.
    """
    overrides = overrides_for(ports_from, data_dir, agents)
    start(config_file, overrides, report_json if as_json else report, reload=reload)


def overrides_for(first_port: int | None, data_dir: Path | None, agents: tuple[Path, ...]) -> dict[str, object]:
    """Return the configuration keys that the options set."""
    overrides: dict[str, object] = {}
    if first_port is not None:
        overrides |= ports_from(first_port)
    if data_dir is not None:
        overrides["data_dir"] = str(data_dir.resolve())
    if agents:
        overrides["runner.agents"] = ",".join(str(path.resolve()) for path in agents)
    return overrides


def start(
    config_file: Path | None,
    overrides: Mapping[str, object],
    report: Any,
    *,
    roles: Sequence[str] = START_ORDER,
    reload: bool = False,
) -> None:
    """Run the supervisor of these roles to its end."""
    settings = config.load(config_file, overrides=overrides)
    environment = {**os.environ, **config_source.variables(config_file, overrides)}
    supervisor = Supervisor(settings, environment, report, roles=roles)
    lifecycle.run_loop(_supervise(supervisor, reload))


async def _supervise(supervisor: Supervisor, reload: bool) -> None:
    from agentmesh.cli import reload as reloading

    stop = lifecycle.stop_on_signals()
    rules = reloading.rules_for(supervisor.settings, everything=reload)
    watcher = asyncio.create_task(reloading.watch(supervisor, rules))
    try:
        await supervisor.run(stop)
    finally:
        watcher.cancel()


def _first_command(services: Mapping[str, Mapping[str, Any]]) -> str:
    if names.ROUTER in services:
        return f"agentmesh run echo hello --address {services[names.ROUTER]['address']}"
    return f"curl http://{services[names.GATEWAY]['address']}/v1/models" if names.GATEWAY in services else ""


def report_json(event: Mapping[str, Any]) -> None:
    """Print an event as a line of JSON."""
    print(json.dumps(event), flush=True)


def report(event: Mapping[str, Any]) -> None:
    """Print an event for people."""
    if event["event"] == "ready":
        print("agentmesh is up:")
        for role, service in event["services"].items():
            print(f"  {role:8} {service['address']}")
        if try_this := _first_command(event["services"]):
            print(f"Try: {try_this}")
        print("Stop with Ctrl-C.", flush=True)
    elif event["event"] == "reloading":
        print(f"{event['service']}: code changed, restarting", file=sys.stderr, flush=True)
    elif event["event"] == "restarted":
        print(f"{event['service']} ended with code {event['code']} and was started again", file=sys.stderr, flush=True)
