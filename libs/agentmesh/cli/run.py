"""`agentmesh run`: one task from the command line, followed to its end."""

import asyncio
import json
import sys
from pathlib import Path

import click
from google.protobuf import json_format

from agentmesh.cli import failures
from agentmesh.cli.asking import Asker, is_interactive
from agentmesh.cli.connecting import connect, mesh_options
from agentmesh.cli.following import Follower
from agentmesh.cli.output import note
from agentmesh.cli.task_options import task_options
from agentmesh.cli.views import view_for
from agentmesh.client import TERMINAL, MeshError, TaskOptions

_OUTPUT = Path("agentmesh-output")


@click.command()
@click.argument("agent")
@click.argument("prompt", required=False, default="")
@task_options(click.FloatRange(min=0, min_open=True), "Seconds it may run; 3600.")
@click.option("--request-id", help="Makes it safe to run the command again: same id, same task.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for what the task makes; ./agentmesh-output/TASK_ID by default.",
)
@click.option("--detach", is_flag=True, help="Print the task's id once it is durable, and leave.")
@mesh_options
@failures.reported
def run(
    agent: str,
    prompt: str,
    request_id: str | None,
    output: Path | None,
    detach: bool,
    address: str | None,
    ca: Path | None,
    as_json: bool,
    options: TaskOptions,
) -> None:
    """Run AGENT on PROMPT (- reads it from standard input) and show what happens.

    The answer goes to standard output, everything else to standard error. With --json, standard output has one
    event a line: protobuf JSON with taskId, sequence and attempt.

    Exit codes: 0 completed, 1 failed, 2 usage, 3 unreachable, 4 canceled, 5 input required.
    """
    person = is_interactive() and not as_json and prompt != "-"
    if prompt == "-":
        prompt = sys.stdin.read()
    if detach:
        asyncio.run(_submit(agent, prompt, request_id, options, address, ca, as_json))
        return
    sys.exit(asyncio.run(_run(agent, prompt, request_id, options, address, ca, as_json, person, output)))


async def _submit(
    agent: str,
    prompt: str,
    request_id: str | None,
    options: TaskOptions,
    address: str | None,
    ca: Path | None,
    as_json: bool,
) -> None:
    async with connect(address, ca) as client:
        task = await client.submit(agent, prompt, request_id=request_id, **options)
    print(json.dumps(json_format.MessageToDict(task), ensure_ascii=False) if as_json else task.id)
    note(f"follow it with: agentmesh tasks watch {task.id}")


async def _run(
    agent: str,
    prompt: str,
    request_id: str | None,
    options: TaskOptions,
    address: str | None,
    ca: Path | None,
    as_json: bool,
    person: bool,
    output: Path | None,
) -> int:
    async with connect(address, ca) as client:
        view = view_for(as_json=as_json, terminal=sys.stdout.isatty())
        follower = Follower(client, view, Asker() if person else None)
        try:
            code = await follower.follow(client.stream(agent, prompt, request_id=request_id, **options))
        except MeshError:
            if follower.task_id:
                note(f"the task may go on; come back with: agentmesh tasks watch {follower.task_id}")
            raise
        if follower.end.state in TERMINAL:
            await follower.finish(output or _OUTPUT / follower.task_id, quiet=as_json)
        return code
