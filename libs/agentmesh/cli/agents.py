"""`agentmesh agents`: what can be asked, and with which parameters."""

import json
from pathlib import Path

import click
from google.protobuf import json_format

from agentmesh.api.task.v1 import task_pb2, task_service_pb2
from agentmesh.cli import failures
from agentmesh.cli.connecting import call, mesh_options
from agentmesh.cli.output import note, print_json, print_table, printable, shortened


@click.command()
@click.argument("name", required=False)
@mesh_options
@failures.reported
def agents(name: str | None, address: str | None, ca: Path | None, as_json: bool) -> None:
    """List the agents that are known, or show one with its parameters."""
    if name is not None:
        agent = call(address, ca, lambda client: client.agent(name))
        _show(agent, as_json)
        return
    found = call(address, ca, lambda client: client.agents())
    if as_json:
        print_json(task_service_pb2.ListAgentsResponse(agents=found))
        return
    rows = [(one.name, one.version, "yes" if one.serving else "no", shortened(one.description)) for one in found]
    print_table(("AGENT", "VERSION", "SERVED", "WHAT IT DOES"), rows)
    if not found:
        note("none yet: is a runner connected? `agentmesh doctor` says")


def _show(agent: task_pb2.Agent, as_json: bool) -> None:
    if as_json:
        print_json(agent)
        return
    print(f"{printable(agent.name)} {printable(agent.version)}{'' if agent.serving else ' (not served now)'}")
    print(printable(agent.description))
    for skill in agent.skills:
        print(f"\n{printable(skill.name)}: {printable(skill.description)}")
        for example in skill.examples:
            print(f"  agentmesh run {agent.name} {json.dumps(printable(example), ensure_ascii=False)}")
    schema = json_format.MessageToDict(agent.parameters_schema)
    rows = [
        (key, _type(field), _default(field), str(field.get("description", "")))
        for key, field in sorted(schema.get("properties", {}).items())
    ]
    if rows:
        print()
        print_table(("PARAMETER", "TYPE", "DEFAULT", "MEANING"), rows)


def _default(field: dict[str, object]) -> str:
    value = field.get("default")
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a Struct knows no integers
    return json.dumps(value, ensure_ascii=False) if "default" in field else ""


def _type(field: dict[str, object]) -> str:
    choices = field.get("enum")
    if isinstance(choices, list):
        return " | ".join(map(str, choices))
    return str(field.get("type", "any"))
