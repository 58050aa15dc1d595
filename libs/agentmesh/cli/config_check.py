"""`agentmesh config`: whether the configuration is usable, what it comes to, what may be in it."""

import json
from pathlib import Path

import click

from agentmesh.cli import failures
from agentmesh.cli.settings_options import load_settings, settings_options
from agentmesh.kit import config as settings


@click.group()
def config() -> None:
    """Check the configuration, show it, or print its schema."""


@config.command()
@settings_options
@click.option("--json", "as_json", is_flag=True, help="JSON, for scripts.")
def check(config_file: Path | None, data_dir: Path | None, first_port: int | None, as_json: bool) -> None:
    """Say every fault of the configuration; exit with 2 if there is one."""
    errors: tuple[str, ...] = ()
    environment = ""
    try:
        environment = load_settings(config_file, data_dir, first_port).environment
    except settings.ConfigError as error:
        errors = error.errors
    if as_json:
        print(json.dumps({"valid": not errors, "environment": environment, "errors": list(errors)}))
    elif not errors:
        print(f"the configuration is valid (environment {environment})")
    else:
        for line in errors:
            click.echo(f"error: {line}", err=True)
    if errors:
        raise SystemExit(failures.USAGE)


@config.command()
@settings_options
@click.option("--json", "as_json", is_flag=True, help="JSON, for scripts.")
@failures.reported
def show(config_file: Path | None, data_dir: Path | None, first_port: int | None, as_json: bool) -> None:
    """Show the settings that a mesh would run with; secrets are masked."""
    described = settings.describe(load_settings(config_file, data_dir, first_port))
    if as_json:
        print(json.dumps(described, indent=2))
        return
    import yaml

    print(yaml.safe_dump(described, sort_keys=False, allow_unicode=True), end="")


@config.command()
@click.option("--json", "as_json", is_flag=True, help="Accepted for symmetry: the schema is JSON anyway.")
def schema(as_json: bool) -> None:
    """Print the JSON Schema of a configuration file, for editors."""
    print(json.dumps(settings.json_schema(), indent=2))
