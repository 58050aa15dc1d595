"""`agentmesh tasks`: find tasks, follow them, steer them."""

import asyncio
import json
import sys
from pathlib import Path

import click

from agentmesh.api.task.v1 import events_pb2, task_pb2
from agentmesh.cli import failures
from agentmesh.cli.asking import Asker, is_interactive
from agentmesh.cli.connecting import call, connect, mesh_options
from agentmesh.cli.following import Follower
from agentmesh.cli.output import (
    note,
    print_json,
    print_new_task,
    print_table,
    printable,
    shortened,
    state_word,
    time_text,
    usage_line,
)
from agentmesh.cli.views import view_for
from agentmesh.client import TERMINAL, Json
from agentmesh.kit.errors import WrongState, from_status

_STATES = [state_word(state) for state in events_pb2.TaskState.values() if state]


@click.group()
def tasks() -> None:
    """Find tasks, follow them, steer them."""


@tasks.command("list")
@click.option("--state", "states", multiple=True, type=click.Choice(_STATES, case_sensitive=False))
@click.option("--agent", default="", help="Only of this agent.")
@click.option("--label", default="", metavar="KEY=VALUE", help="Only with this label.")
@click.option("--context", "context_id", default="", help="Only of this conversation.")
@click.option("--parent", "parent_id", default="", help="Only children of this task.")
@click.option("--schedule", "schedule_id", default="", help="Only of this schedule.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("--page-token", default="", help="From the page before.")
@mesh_options
@failures.reported
def list_(
    states: tuple[str, ...],
    agent: str,
    label: str,
    context_id: str,
    parent_id: str,
    schedule_id: str,
    limit: int,
    page_token: str,
    address: str | None,
    ca: Path | None,
    as_json: bool,
) -> None:
    """List tasks, newest first."""
    wanted = [events_pb2.TaskState.Value(f"TASK_STATE_{state.upper()}") for state in states]
    page = call(
        address,
        ca,
        lambda client: client.list(
            states=wanted,
            agent=agent,
            label=label,
            context_id=context_id,
            parent_id=parent_id,
            schedule_id=schedule_id,
            page_size=limit,
            page_token=page_token,
        ),
    )
    if as_json:
        print_json(page)
        return
    rows = [
        (
            task.id,
            state_word(task.state),
            task.spec.agent,
            time_text(task.create_time),
            shortened(task.spec.prompt)[:50],
        )
        for task in page.tasks
    ]
    print_table(("TASK", "STATE", "AGENT", "CREATED", "PROMPT"), rows)
    if page.next_page_token:
        note(f"more with: --page-token {page.next_page_token}")


@tasks.command()
@click.argument("task_id")
@mesh_options
@failures.reported
def get(task_id: str, address: str | None, ca: Path | None, as_json: bool) -> None:
    """Show a task as it stands."""
    task = call(address, ca, lambda client: client.get(task_id))
    _show(task, as_json)


@tasks.command()
@click.argument("task_id")
@click.option("--after", type=click.IntRange(min=0), default=0, help="Only events after this sequence.")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), help="Save what the task made here.")
@mesh_options
@failures.reported
def watch(task_id: str, after: int, output: Path | None, address: str | None, ca: Path | None, as_json: bool) -> None:
    """Replay a task's events, then follow it to its end. Exit codes are those of `run`."""

    async def follow() -> int:
        async with connect(address, ca) as client:
            view = view_for(as_json=as_json, terminal=sys.stdout.isatty())
            asker = Asker() if is_interactive() and not as_json else None
            follower = Follower(client, view, asker, task_id=task_id)
            code = await follower.follow(client.watch(task_id, after))
            if follower.end.state in TERMINAL:
                await follower.finish(output or Path("agentmesh-output") / task_id, quiet=as_json)
            return code

    sys.exit(asyncio.run(follow()))


@tasks.command()
@click.argument("task_id")
@mesh_options
@failures.reported
def cancel(task_id: str, address: str | None, ca: Path | None, as_json: bool) -> None:
    """Ask for a task to stop; a running one ends a little later."""
    task = call(address, ca, lambda client: client.cancel(task_id))
    if as_json:
        print_json(task)
    else:
        print(f"{task.id} {state_word(task.state)}")
        if task.state not in TERMINAL:
            note("it was asked to stop")


@tasks.command()
@click.argument("task_id")
@click.option("--inherit", is_flag=True, help="Keep the finished steps of the old task.")
@mesh_options
@failures.reported
def retry(task_id: str, inherit: bool, address: str | None, ca: Path | None, as_json: bool) -> None:
    """Submit an ended task anew, and print the new task's id."""
    task = call(address, ca, lambda client: client.retry(task_id, inherit_journal=inherit))
    print_new_task(task, as_json=as_json)


@tasks.command("input")
@click.argument("task_id")
@click.argument("answer", required=False)
@click.option("--data", metavar="JSON", help="Answer with a JSON object instead of text.")
@click.option("--input-id", default="", help="The question; the one that is open by default.")
@mesh_options
@failures.reported
def input_(
    task_id: str,
    answer: str | None,
    data: str | None,
    input_id: str,
    address: str | None,
    ca: Path | None,
    as_json: bool,
) -> None:
    """Answer the question that a task waits with."""
    if (answer is None) == (data is None):
        raise click.UsageError("give either ANSWER or --data")
    value: str | dict[str, Json] = answer if answer is not None else _object(data or "")

    async def send() -> task_pb2.Task:
        async with connect(address, ca) as client:
            question = input_id or (await client.get(task_id)).input_request.input_id
            if not question:
                raise WrongState("the task asks nothing now", reason="NO_INPUT_NEEDED")
            return await client.send_input(task_id, question, value)

    task = asyncio.run(send())
    if as_json:
        print_json(task)
    else:
        print(f"{task.id} {state_word(task.state)}")


def _object(text: str) -> dict[str, Json]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"is not JSON: {error}", param_hint="--data") from error
    if not isinstance(value, dict):
        raise click.BadParameter("must be a JSON object", param_hint="--data")
    return value


def _show(task: task_pb2.Task, as_json: bool) -> None:
    if as_json:
        print_json(task)
        return
    lines = {
        "task": task.id,
        "state": state_word(task.state),
        "agent": f"{task.spec.agent} {task.agent_version}".strip(),
        "prompt": shortened(task.spec.prompt),
        "attempts": f"{task.attempt} ({task.failures} failed)",
        "events": str(task.last_sequence),
        "created": time_text(task.create_time),
        "started": time_text(task.start_time),
        "ended": time_text(task.end_time),
        "cancel asked": time_text(task.cancel_requested_time),
        "parent": task.parent_id,
        "schedule": task.schedule_id,
        "retry of": task.retry_of,
        "used": usage_line(task.usage),
        "question": shortened(task.input_request.prompt),
    }
    for name, value in lines.items():
        if value:
            print(f"{name + ':':14}{printable(value)}")
    if task.HasField("error"):
        error = from_status(task.error)
        print(f"{'error:':14}{printable(error.message)} ({error.reason})")
    if task.result.text:
        print(f"\n{printable(task.result.text)}")
