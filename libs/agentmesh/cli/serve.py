"""`agentmesh serve`: one service in this process, or several as its children."""

import os
import signal
import sys
import threading
from collections.abc import Sequence
from importlib.metadata import EntryPoint, distribution
from pathlib import Path

import click

from agentmesh.kit import config, names

_LAST_SECONDS = 5.0


@click.command()
@click.argument("roles", metavar="ROLE...", nargs=-1, required=True, type=click.Choice(names.ROLES))
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="Configuration file.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Data folder; ./.agentmesh by default.")
@click.option("--host", help="Address to listen on; 127.0.0.1 by default.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on.")
@click.option("--ports-from", type=click.IntRange(1, 65526), help="With several services: as of `up`.")
@click.option("--json", "as_json", is_flag=True, help="With several services: one JSON object a line, for scripts.")
@click.option("--insecure-dev", is_flag=True, help="Listen beyond this machine without TLS and authentication.")
def serve(
    roles: tuple[str, ...],
    config_file: Path | None,
    data_dir: Path | None,
    host: str | None,
    port: int | None,
    ports_from: int | None,
    as_json: bool,
    insecure_dev: bool,
) -> None:
    """Run services: router, runner, llm, storage, gateway.

    One runs in this process. Several are its children, as with `up`: started again when they die, drained at Ctrl-C.
    A gateway beside an llm-proxy without a router serves models only.
    """
    if len(set(roles)) > 1:
        if host is not None or port is not None:
            raise click.UsageError("--host and --port are for one service; use --ports-from or the configuration")
        _supervise(roles, config_file, data_dir, ports_from, as_json=as_json, insecure_dev=insecure_dev)
        return
    if ports_from is not None or as_json:
        raise click.UsageError("--ports-from and --json are for several services")
    role = roles[0]
    given = {
        "data_dir": str(data_dir) if data_dir else None,
        f"services.{role}.host": host,
        f"services.{role}.port": port,
        "insecure_dev": insecure_dev or None,
    }
    overrides = {key: value for key, value in given.items() if value is not None}
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what matters of it is in our own log
    lifeline = os.environ.pop(names.LIFELINE, "")
    settings = config.load(config_file, overrides=overrides, unused=config.UNUSED_BY.get(role, ()))
    entry = entry_point(role)
    if entry is None:
        print(f"error: {role} is not installed: pip install 'agentmesh[{role}]'", file=sys.stderr)
        sys.exit(1)
    try:
        serve_role = entry.load()
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("agentmesh"):
            raise
        remedy = "pip install 'agentmesh[all]', in a checkout pip install -e '.[all]'"
        print(f"error: {role} needs {error.name}, which is not installed: {remedy}", file=sys.stderr)
        sys.exit(1)
    if lifeline:
        _end_with_parent(int(lifeline))
    serve_role(settings)


def entry_point(role: str) -> EntryPoint | None:
    """Return where a service begins, or None if it is not installed.

    Looks among our own entry points, not those of every package that is installed: that takes 20 ms.
    """
    found = distribution("agentmesh").entry_points.select(group="agentmesh.services", name=role)
    return next(iter(found), None)


def _supervise(
    roles: Sequence[str],
    config_file: Path | None,
    data_dir: Path | None,
    ports_from: int | None,
    *,
    as_json: bool,
    insecure_dev: bool,
) -> None:
    from agentmesh.cli import up
    from agentmesh.cli.supervisor import START_ORDER

    overrides = up.overrides_for(ports_from, data_dir, ())
    if insecure_dev:
        overrides["insecure_dev"] = True
    elsewhere = config.load(config_file, overrides=overrides).services.router.address
    if names.LLM in roles and names.ROUTER not in roles and not elsewhere:
        overrides["services.gateway.behind"] = names.LLM
    wanted = [role for role in START_ORDER if role in roles]
    up.start(config_file, overrides, up.report_json if as_json else up.report, roles=wanted)


def _end_with_parent(lifeline: int) -> None:
    """Stop when `up`, which started this process, is gone, however it went."""
    threading.Thread(target=_watch, args=(lifeline,), daemon=True).start()


def _watch(handle: int) -> None:
    os.read(handle, 1)
    signal.raise_signal(signal.SIGTERM) if os.name == "nt" else os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(_LAST_SECONDS)
    os._exit(1)
