"""`agentmesh dev`: the mesh around one file of agents, restarted as it changes."""

from pathlib import Path

import click

from agentmesh.cli.up import overrides_for, report, start


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True))
@click.option("--ports-from", type=click.IntRange(1, 65526), help="Services take ports N to N+4, metrics N+5 to N+9.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Data folder; ./.agentmesh by default.")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="Configuration file.")
def dev(file: Path, ports_from: int | None, data_dir: Path | None, config_file: Path | None) -> None:
    """Run the mesh with the agents in FILE (or a folder), and restart the runner when it changes."""
    start(config_file, overrides_for(ports_from, data_dir, (file,)), report, reload=True)
