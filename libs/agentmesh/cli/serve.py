"""`agentmesh serve`: one service in this process."""

import os
import signal
import sys
import threading
from importlib.metadata import entry_points
from pathlib import Path

import click

from agentmesh.kit import config, names

LIFELINE = "AGENTMESH_LIFELINE"
_LAST_SECONDS = 5.0


@click.command()
@click.argument("role", type=click.Choice(names.ROLES))
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="Configuration file.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Data folder; ./.agentmesh by default.")
@click.option("--host", help="Address to listen on; 127.0.0.1 by default.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on.")
@click.option("--insecure-dev", is_flag=True, help="Listen beyond this machine without TLS and authentication.")
def serve(
    role: str,
    config_file: Path | None,
    data_dir: Path | None,
    host: str | None,
    port: int | None,
    insecure_dev: bool,
) -> None:
    """Run one service: router, runner, llm, storage or gateway."""
    given = {
        "data_dir": str(data_dir) if data_dir else None,
        f"services.{role}.host": host,
        f"services.{role}.port": port,
        "insecure_dev": insecure_dev or None,
    }
    overrides = {key: value for key, value in given.items() if value is not None}
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what matters of it is in our own log
    _end_with_parent()
    settings = config.load(config_file, overrides=overrides)
    found = [point for point in entry_points(group="agentmesh.services") if point.name == role]
    if not found:
        print(f"error: {role} is not installed: pip install 'agentmesh[{role}]'", file=sys.stderr)
        sys.exit(1)
    found[0].load()(settings)


def _end_with_parent() -> None:
    """When `up` started this process, stop when it is gone, however it went."""
    lifeline = os.environ.pop(LIFELINE, "")
    if lifeline:
        threading.Thread(target=_watch, args=(int(lifeline),), daemon=True).start()


def _watch(handle: int) -> None:
    os.read(handle, 1)
    signal.raise_signal(signal.SIGTERM) if os.name == "nt" else os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(_LAST_SECONDS)
    os._exit(1)
