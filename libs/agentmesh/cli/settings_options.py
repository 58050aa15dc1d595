"""What every command that reads the configuration shares: its options, and the settings made from them."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

import click

from agentmesh.cli.supervisor import ports_from
from agentmesh.kit import config
from agentmesh.kit.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])


def settings_options(command: F) -> F:
    """Add --config, --data-dir and --ports-from, with the meaning they have for `up`."""
    options = (
        click.option("--config", "config_file", type=click.Path(path_type=Path), help="Configuration file."),
        click.option("--data-dir", type=click.Path(path_type=Path), help="Data folder; ./.agentmesh by default."),
        click.option("--ports-from", "first_port", type=click.IntRange(1, 65526), help="As given to `up`."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def load_settings(
    config_file: Path | None, data_dir: Path | None, first_port: int | None, unused: Collection[str] = ()
) -> Settings:
    """Load the settings that `up` would use with the same options, without keys that are unused; raises ConfigError."""
    overrides: dict[str, object] = dict(ports_from(first_port)) if first_port is not None else {}
    if data_dir is not None:
        overrides["data_dir"] = str(data_dir)
    return config.load(config_file, overrides=overrides, unused=unused)
