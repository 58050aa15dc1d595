"""`agentmesh demo`: the whole mesh on real data, from nothing to a report, and gone again."""

import asyncio
import os
import socket
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import click

from agentmesh.cli import failures
from agentmesh.cli.connecting import connect
from agentmesh.cli.following import Follower
from agentmesh.cli.output import note
from agentmesh.cli.supervisor import Supervisor, config_variables, ports_from
from agentmesh.cli.views import view_for
from agentmesh.kit import config
from agentmesh.kit.errors import Unavailable

_DATA = "seattle-weather.csv"
_PROMPT = "How has the weather in Seattle changed, and what goes with what?"
_RUN = 10
_FIRST_PORT, _LAST_PORT = 50_100, 50_900
_REPORT_LINES = 40


@click.command()
@click.option("--agent", default="data_analysis", show_default=True, help="The agent to run.")
@click.option("--prompt", default=_PROMPT, help="What to ask it.")
@click.option(
    "--file",
    "file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Data of your own; by default four years of Seattle's weather (NOAA), which ship with agentmesh.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("agentmesh-output/demo"),
    show_default=True,
    help="Folder for the report and the charts.",
)
@failures.reported
def demo(agent: str, prompt: str, file: Path | None, output: Path) -> None:
    """Start the five services, analyse a real data set with live events, show the report, stop everything.

    Needs no key and no network: without a provider in the environment, the built-in offline model writes the words.
    """
    with tempfile.TemporaryDirectory(prefix="agentmesh-demo-") as folder:
        overrides: dict[str, object] = {
            **ports_from(_free_ports()),
            "data_dir": folder,
            "logging.console": False,
            "logging.file": True,
            "drain_timeout_s": 5,
        }
        settings = config.load(overrides=overrides)
        environment = {**os.environ, **config_variables(None, overrides)}
        supervisor = Supervisor(settings, environment, _report)
        with as_file(files("agentmesh_runner") / "data" / _DATA) as shipped:
            sys.exit(asyncio.run(_demo(supervisor, agent, prompt, file or shipped, output)))


async def _demo(supervisor: Supervisor, agent: str, prompt: str, file: Path, output: Path) -> int:
    stop, ready = asyncio.Event(), asyncio.Event()
    started = time.monotonic()
    note("starting storage, llm-proxy, runner, router and gateway …")
    mesh = asyncio.create_task(supervisor.run(stop, ready))
    waiting = asyncio.create_task(ready.wait())
    try:
        await asyncio.wait({mesh, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if mesh.done():
            await mesh
            raise Unavailable("the mesh ended before it was ready")
        note(f"all five are serving after {time.monotonic() - started:.1f} s; {agent} gets {file.name}")
        code = await _run(supervisor, agent, prompt, file, output)
    finally:
        waiting.cancel()
        stop.set()
        await asyncio.wait({mesh})
    note(f"everything is stopped again; the demo took {time.monotonic() - started:.1f} s")
    return code


async def _run(supervisor: Supervisor, agent: str, prompt: str, file: Path, output: Path) -> int:
    async with connect(supervisor.services["router"].address, None) as client:
        view = view_for(as_json=False, terminal=sys.stdout.isatty())
        follower = Follower(client, view, None)
        code = await follower.follow(client.stream(agent, prompt, files=(file,)))
        folder = output / follower.task_id
        await follower.finish(folder, quiet=True)
    report = folder / "report.md"
    if report.is_file():
        _show(report)
    return code


def _show(report: Path) -> None:
    lines = report.read_text(encoding="utf-8").splitlines()
    text = "\n".join(lines[:_REPORT_LINES])
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.markdown import Markdown

        Console().print(Markdown(text))
    else:
        print(text)
    if len(lines) > _REPORT_LINES:
        note(f"… {len(lines) - _REPORT_LINES} more lines")
    note(f"the whole report: {report}")
    note(f"its charts: {', '.join(sorted(path.name for path in report.parent.glob('*.png')))} beside it")


def _report(event: Mapping[str, Any]) -> None:
    if event["event"] == "restarted":
        note(f"{event['service']} ended with code {event['code']} and was started again")


def _free_ports() -> int:
    """Return N such that N to N+9 are free now."""
    for first in range(_FIRST_PORT, _LAST_PORT, _RUN):
        with suppress(OSError):
            for port in range(first, first + _RUN):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            return first
    raise Unavailable(f"no ten free ports between {_FIRST_PORT} and {_LAST_PORT}")
