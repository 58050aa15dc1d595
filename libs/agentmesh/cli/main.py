"""The group of commands; each is imported only when it is called, so that every one starts fast."""

import importlib
import sys
from typing import Any

import click

from agentmesh import __version__
from agentmesh.kit.config import ConfigError
from agentmesh.kit.errors import MeshError

_COMMANDS = {
    "agents": "agentmesh.cli.agents:agents",
    "completion": "agentmesh.cli.completion:completion",
    "config": "agentmesh.cli.config_check:config",
    "debug": "agentmesh.cli.debug:debug",
    "demo": "agentmesh.cli.demo:demo",
    "dev": "agentmesh.cli.dev:dev",
    "doctor": "agentmesh.cli.doctor:doctor",
    "health": "agentmesh.cli.health:health",
    "keys": "agentmesh.cli.keys:keys",
    "migrate": "agentmesh.cli.migrate:migrate",
    "run": "agentmesh.cli.run:run",
    "schedules": "agentmesh.cli.schedules:schedules",
    "serve": "agentmesh.cli.serve:serve",
    "tasks": "agentmesh.cli.tasks:tasks",
    "up": "agentmesh.cli.up:up",
    "usage": "agentmesh.cli.usage:usage",
    "version": "agentmesh.cli.version:version",
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports them when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return every name."""
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        target = _COMMANDS.get(cmd_name)
        if target is None:
            return None
        module, _, attribute = target.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="agentmesh")
def cli() -> None:
    """Run AI agents as a durable gRPC service mesh.

    Start with `agentmesh demo`, or `agentmesh up` and `agentmesh run echo hello`.
    """


def main(arguments: list[str] | None = None) -> Any:
    """Run the command; what is wrong with the input becomes a line, not a traceback."""
    try:
        return cli.main(args=arguments, prog_name="agentmesh")
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except MeshError as error:
        print(f"error: {error.message}", file=sys.stderr)
        for field, description in error.violations:
            print(f"  {field}: {description}", file=sys.stderr)
        sys.exit(1)
