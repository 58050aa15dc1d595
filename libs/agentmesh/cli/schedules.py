"""`agentmesh schedules`: tasks that recur."""

import sys
from collections.abc import Callable, Coroutine
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import click

from agentmesh.api.schedule.v1 import schedule_service_pb2 as pb
from agentmesh.cli import failures
from agentmesh.cli.connecting import call, mesh_options
from agentmesh.cli.output import note, print_json, print_new_task, print_table, printable, shortened
from agentmesh.cli.schedule_text import lines_of, next_text, when_text
from agentmesh.cli.task_options import task_options
from agentmesh.cli.times import DurationType, MomentType, TimeZoneType
from agentmesh.client import AsyncClient, Overlap, TaskOptions


@click.group()
def schedules() -> None:
    """Make tasks recur: create schedules, find them, pause them."""


@schedules.command()
@click.argument("agent")
@click.argument("prompt", required=False, default="")
@click.option("--cron", default="", help='Five fields, such as "0 9 * * MON-FRI", or six with the second first.')
@click.option("--every", "every_s", type=DurationType(), help="The time between firings: 30s, 15m, 1h30m, 2d.")
@click.option("--time-zone", default="", type=TimeZoneType(), help="Where --cron is read, as Europe/Berlin; UTC.")
@click.option(
    "--overlap",
    type=click.Choice(get_args(Overlap)),
    default="skip",
    show_default=True,
    help="What happens while the task before has not ended.",
)
@click.option("--catch-up", "catch_up_s", type=DurationType(), help="How late a firing is still made up for; 60s.")
@click.option("--name", default="", help="A name for people.")
@click.option("--from", "begin_time", type=MomentType(), help="It does not fire before; --every counts from here.")
@click.option("--until", "end_time", type=MomentType(), help="It does not fire after.")
@task_options(DurationType(), "The time that each task may run; 1h.")
@click.option("--request-id", help="Makes it safe to run the command again: same id, same schedule.")
@mesh_options
@failures.reported
def create(
    agent: str,
    prompt: str,
    cron: str,
    every_s: float | None,
    time_zone: str,
    overlap: Overlap,
    catch_up_s: float | None,
    name: str,
    begin_time: datetime | None,
    end_time: datetime | None,
    request_id: str | None,
    address: str | None,
    ca: Path | None,
    as_json: bool,
    options: TaskOptions,
) -> None:
    """Run AGENT on PROMPT (- reads it from standard input) again and again, and print the schedule's id.

    For example: agentmesh schedules create echo "good morning" --cron "0 9 * * MON-FRI" --time-zone Europe/Berlin
    """
    if bool(cron) == (every_s is not None):
        raise click.UsageError("give either --cron or --every")
    text = sys.stdin.read() if prompt == "-" else prompt

    def make(client: AsyncClient) -> Coroutine[Any, Any, pb.Schedule]:
        return client.create_schedule(
            agent,
            text,
            cron=cron,
            every_s=every_s,
            time_zone=time_zone,
            overlap=overlap,
            catch_up_s=catch_up_s,
            name=name,
            begin_time=begin_time,
            end_time=end_time,
            request_id=request_id,
            **options,
        )

    made = call(address, ca, make)
    if as_json:
        print_json(made)
    else:
        print(made.id)
        note(f"first at {next_text(made)}; see it with: agentmesh schedules show {made.id}")


@schedules.command("list")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("--page-token", default="", help="From the page before.")
@mesh_options
@failures.reported
def list_(limit: int, page_token: str, address: str | None, ca: Path | None, as_json: bool) -> None:
    """List schedules, newest first."""
    page = call(address, ca, lambda client: client.schedules(page_size=limit, page_token=page_token))
    if as_json:
        print_json(page)
        return
    rows = [
        (
            one.id,
            shortened(one.spec.name)[:30],
            shortened(when_text(one.spec)),
            one.spec.task.agent,
            next_text(one),
            str(one.fired),
        )
        for one in page.schedules
    ]
    print_table(("SCHEDULE", "NAME", "WHEN", "AGENT", "NEXT", "FIRED"), rows)
    if not rows:
        note("none yet; make one with: agentmesh schedules create")
    if page.next_page_token:
        note(f"more with: --page-token {page.next_page_token}")


@schedules.command()
@click.argument("schedule_id")
@mesh_options
@failures.reported
def show(schedule_id: str, address: str | None, ca: Path | None, as_json: bool) -> None:
    """Show a schedule as it stands, with the next five times."""
    _print(call(address, ca, lambda client: client.schedule(schedule_id)), as_json)


@schedules.command()
@click.argument("schedule_id")
@mesh_options
@failures.reported
def pause(schedule_id: str, address: str | None, ca: Path | None, as_json: bool) -> None:
    """Let a schedule fire no more until it is resumed."""
    _change(address, ca, as_json, lambda client: client.pause_schedule(schedule_id))


@schedules.command()
@click.argument("schedule_id")
@mesh_options
@failures.reported
def resume(schedule_id: str, address: str | None, ca: Path | None, as_json: bool) -> None:
    """Let a paused schedule fire again; what it left out is not made up for."""
    _change(address, ca, as_json, lambda client: client.resume_schedule(schedule_id))


@schedules.command()
@click.argument("schedule_id")
@click.option("--request-id", help="Makes it safe to run the command again: same id, same task.")
@mesh_options
@failures.reported
def run(schedule_id: str, request_id: str | None, address: str | None, ca: Path | None, as_json: bool) -> None:
    """Make a schedule's task now, also while it is paused, and print the task's id."""
    task = call(address, ca, lambda client: client.run_schedule(schedule_id, request_id=request_id))
    print_new_task(task, as_json=as_json)


@schedules.command()
@click.argument("schedule_id")
@mesh_options
@failures.reported
def delete(schedule_id: str, address: str | None, ca: Path | None, as_json: bool) -> None:
    """End a schedule; the tasks that it made stay."""
    call(address, ca, lambda client: client.delete_schedule(schedule_id))
    if as_json:
        print_json(pb.DeleteScheduleResponse())
    else:
        print(f"{schedule_id} deleted")


def _change(
    address: str | None,
    ca: Path | None,
    as_json: bool,
    work: Callable[[AsyncClient], Coroutine[Any, Any, pb.Schedule]],
) -> None:
    changed = call(address, ca, work)
    if as_json:
        print_json(changed)
    else:
        print(f"{changed.id} {'paused' if changed.paused else f'next at {next_text(changed)}'}")


def _print(schedule: pb.Schedule, as_json: bool) -> None:
    if as_json:
        print_json(schedule)
        return
    for name, value in lines_of(schedule):
        print(f"{name + ':' if name else '':14}{printable(value)}")
