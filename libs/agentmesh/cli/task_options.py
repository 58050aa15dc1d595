"""The options that describe a task, for every command that makes one."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from agentmesh.cli.parameters import texts_of, values_of
from agentmesh.client import TaskOptions

Command = Callable[..., Any]


def task_options(timeout: click.ParamType[float], timeout_help: str) -> Callable[[Command], Command]:
    """Add them to a command, which gets what was given as `options`; `timeout` reads --timeout into seconds."""
    added = (
        click.option(
            "--file",
            "files",
            multiple=True,
            type=click.Path(path_type=Path, exists=True, dir_okay=False, readable=True),
            help="A file to give to the task; may be repeated.",
        ),
        click.option(
            "--param", "parameters", multiple=True, metavar="KEY=VALUE", help="A parameter; JSON, or else text."
        ),
        click.option("--constraint", "constraints", multiple=True, metavar="KEY=VALUE", help="A rule for the answer."),
        click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label to find the task by."),
        click.option("--priority", type=click.IntRange(1, 10), help="From 1 (last) to 10 (first); 5 by default."),
        click.option("--timeout", "timeout_s", type=timeout, help=timeout_help),
        click.option("--context", "context_id", default="", help="Tasks with one context share history."),
    )

    def add(command: Command) -> Command:
        @functools.wraps(command)
        def with_options(
            *,
            files: tuple[Path, ...],
            parameters: tuple[str, ...],
            constraints: tuple[str, ...],
            labels: tuple[str, ...],
            priority: int | None,
            timeout_s: float | None,
            context_id: str,
            **others: Any,
        ) -> Any:
            options: TaskOptions = {
                "files": files,
                "parameters": values_of(parameters, "--param"),
                "constraints": values_of(constraints, "--constraint"),
                "labels": texts_of(labels, "--label"),
                "context_id": context_id,
            }
            if priority is not None:
                options["priority"] = priority
            if timeout_s is not None:
                options["timeout_s"] = timeout_s
            return command(options=options, **others)

        wrapped: Command = with_options
        for option in reversed(added):
            wrapped = option(wrapped)
        return wrapped

    return add
