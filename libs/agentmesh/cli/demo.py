"""`agentmesh demo`: the whole mesh on real data, from nothing to a report, and gone again."""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import click

from agentmesh.cli import demo_kill, failures
from agentmesh.cli.connecting import connect
from agentmesh.cli.demo_mesh import free_ports, overrides_for, running
from agentmesh.cli.following import Follower
from agentmesh.cli.output import note
from agentmesh.cli.supervisor import Supervisor
from agentmesh.cli.views import view_for
from agentmesh.kit import config, config_source

_DATA = "seattle-weather.csv"
_PROMPT = "How has the weather in Seattle changed, and what goes with what?"
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
@click.option("--kill", is_flag=True, help="Instead, kill a runner and a router while a task streams, and check it.")
@click.option("--json", "as_json", is_flag=True, help="With --kill: one JSON object a line, for scripts.")
@failures.reported
def demo(agent: str, prompt: str, file: Path | None, output: Path, kill: bool, as_json: bool) -> None:
    """Start the five services, analyse a real data set with live events, show the report, stop everything.

    Needs no key and no network: without a provider in the environment, the built-in offline model writes the words.
    With --kill, an agent of the demo's own speaks while processes are killed; exits with 1 if anything went missing.
    """
    if as_json and not kill:
        raise click.UsageError("--json goes with --kill")
    with tempfile.TemporaryDirectory(prefix="agentmesh-demo-") as folder:
        if kill:
            sys.exit(demo_kill.run(folder, as_json=as_json, terminal=sys.stdout.isatty()))
        with free_ports() as first, as_file(files("agentmesh_runner") / "data" / _DATA) as shipped:
            overrides = overrides_for(folder, first)
            settings = config.load(overrides=overrides)
            environment = {**os.environ, **config_source.variables(None, overrides)}
            supervisor = Supervisor(settings, environment, _report)
            sys.exit(asyncio.run(_demo(supervisor, agent, prompt, file or shipped, output)))


async def _demo(supervisor: Supervisor, agent: str, prompt: str, file: Path, output: Path) -> int:
    started = time.monotonic()
    note("starting storage, llm-proxy, runner, router and gateway …")
    async with running(supervisor):
        note(f"all five are serving after {time.monotonic() - started:.1f} s; {agent} gets {file.name}")
        code = await _run(supervisor, agent, prompt, file, output)
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
