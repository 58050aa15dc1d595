"""`agentmesh version`: what runs here."""

import importlib.metadata
import json
import platform

import click

from agentmesh import __version__


@click.command()
@click.option("--json", "as_json", is_flag=True, help="JSON, for scripts.")
def version(as_json: bool) -> None:
    """Show the versions of agentmesh and of what it stands on."""
    found = {
        "agentmesh": __version__,
        "python": platform.python_version(),
        "grpcio": importlib.metadata.version("grpcio"),
        "protobuf": importlib.metadata.version("protobuf"),
        "platform": platform.platform(),
    }
    if as_json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name} {value}")
