"""`agentmesh debug`: one task straight on a runner, with everything it says; nothing is stored."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import click

from agentmesh.api.runner.v1 import runner_service_pb2 as pb
from agentmesh.api.runner.v1 import runner_service_pb2_grpc as runner_grpc
from agentmesh.api.task.v1 import task_pb2
from agentmesh.api.types.v1 import types_pb2
from agentmesh.cli import failures
from agentmesh.cli.following import exit_code_for
from agentmesh.cli.output import describe, event_json, note, printable
from agentmesh.cli.parameters import values_of
from agentmesh.cli.settings_options import load_settings, settings_options
from agentmesh.client.channels import addresses_from
from agentmesh.client.event import TERMINAL, Event, events_of
from agentmesh.client.spec import TaskOptions, build_spec
from agentmesh.kit import lifecycle, names, rpc_client
from agentmesh.kit.errors import NotFound, Unavailable, from_status
from agentmesh.kit.settings import Settings


@click.command()
@click.argument("agent")
@click.argument("prompt", required=False, default="")
@click.option(
    "--file",
    "files",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A file to give to the task in place, 3 MiB in all; may be repeated.",
)
@click.option("--param", "parameters", multiple=True, metavar="KEY=VALUE", help="A parameter; JSON, or else text.")
@click.option("--constraint", "constraints", multiple=True, metavar="KEY=VALUE", help="A rule for the answer.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0, min_open=True), default=600.0, show_default=True)
@click.option("--runner", "runner_address", help="host:port of the runner; the configured one by default.")
@settings_options
@click.option("--json", "as_json", is_flag=True, help="One event a line: protobuf JSON.")
@failures.reported
def debug(
    agent: str,
    prompt: str,
    files: tuple[Path, ...],
    parameters: tuple[str, ...],
    constraints: tuple[str, ...],
    timeout_s: float,
    runner_address: str | None,
    config_file: Path | None,
    data_dir: Path | None,
    first_port: int | None,
    as_json: bool,
) -> None:
    """Run AGENT straight on a runner: no router, nothing stored, every event and log shown.

    Leaving it stops the task. Exit codes are those of `run`.
    """
    settings = load_settings(config_file, data_dir, first_port)
    address = addresses_from(runner_address or settings.services.runner.addresses)[0]
    parts = [types_pb2.Part(raw=path.read_bytes(), filename=path.name) for path in files]
    options: TaskOptions = {
        "parameters": values_of(parameters, "--param"),
        "constraints": values_of(constraints, "--constraint"),
        "input": parts,
    }
    spec = build_spec(agent, prompt if prompt != "-" else sys.stdin.read(), options)
    sys.exit(
        asyncio.run(_execute(spec, address, role_token(settings), lifecycle.trust_of(settings), timeout_s, as_json))
    )


def role_token(settings: Settings) -> str:
    """Return what a router shows to runners; raise NotFound if this mesh has no secret here yet."""
    if settings.services.token is None and not (settings.data_dir / "service-token").is_file():
        raise NotFound(
            f"there is no service token in {settings.data_dir}: name the mesh's folder with --data-dir, "
            "or start one with `agentmesh up`",
            reason="NO_SERVICE_TOKEN",
        )
    return lifecycle.keyring_of(settings).role_token(names.ROUTER)


async def _execute(
    spec: task_pb2.TaskSpec, address: str, token: str, trust: rpc_client.Trust | None, timeout_s: float, as_json: bool
) -> int:
    async with rpc_client.open_channel(address, trust=trust) as channel:
        stub: Any = runner_grpc.RunnerServiceStub(channel)
        known = await rpc_client.unary(
            stub.ListAgents, pb.ListAgentsRequest(), timeout_s=5.0, metadata=rpc_client.bearer(token)
        )
        served = {agent.name for agent in known.agents}
        if spec.agent not in served:
            raise NotFound(
                f"the runner at {address} does not serve {spec.agent}; it serves: {', '.join(sorted(served))}"
            )
        async with rpc_client.streaming(
            stub.ExecuteTask,
            pb.ExecuteTaskRequest(spec=spec),
            timeout_s=timeout_s,
            metadata=rpc_client.bearer(token),
        ) as responses:
            async for response in responses:
                for event in events_of(response.chunks):
                    _show(event, as_json)
                    if event.is_last:
                        return exit_code_for(event.event.state_changed.state)
    raise Unavailable("the runner ended the call before the task", reason="STREAM_INTERRUPTED")


def _show(event: Event, as_json: bool) -> None:
    if as_json:
        print(event_json(event), flush=True)
        return
    moment = event.event.time.ToDatetime().strftime("%H:%M:%S.%f")[:-3]
    step = f" [{event.event.step}]" if event.event.step else ""
    text = describe(event.event)
    if event.name in ("text_delta", "reasoning_delta"):
        text = json.dumps(printable(getattr(event.event, event.name).text), ensure_ascii=False)
    print(f"{moment} {event.sequence:>4} {event.name}{step} {text}".rstrip(), flush=True)
    changed = event.event.state_changed
    if changed.state in TERMINAL:
        if changed.result.text:
            print(f"\n{printable(changed.result.text)}")
        if changed.HasField("error"):
            failures.report(from_status(changed.error))
            note("the runner's log says more")
