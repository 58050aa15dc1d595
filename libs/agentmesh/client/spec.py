"""Writes what a caller asks for, in Python's types, as the contract's TaskSpec."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from os import PathLike
from typing import TypeAlias, TypedDict

from google.protobuf import struct_pb2

from agentmesh.api.task.v1 import task_pb2
from agentmesh.api.types.v1 import types_pb2
from agentmesh.kit.clock import duration
from agentmesh.kit.errors import InvalidRequest

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
RetryPolicy = task_pb2.RetryPolicy


class TaskOptions(TypedDict, total=False):
    """What may be asked of a task beside agent and prompt; all of it optional."""

    parameters: Mapping[str, Json]
    """The agent's parameters; they fit its JSON Schema (see `agent`)."""
    constraints: Mapping[str, Json]
    """Rules that the answer must keep; the agent documents which it knows."""
    files: Sequence[str | PathLike[str]]
    """Files to upload and give to the task, before `artifact_ids`."""
    artifact_ids: Sequence[str]
    """Artifacts that were uploaded before; at most 100 with the files."""
    input: Sequence[types_pb2.Part]
    """Further content in place."""
    priority: int
    """From 1 (last) to 10 (first); 5 by default."""
    timeout_s: float
    """Seconds the task may run, counted from its first start; 1 h by default."""
    queue_timeout_s: float
    """Seconds it may wait for a runner."""
    idle_timeout_s: float
    """Seconds it may say nothing while running."""
    start_time: datetime
    """Not before this time; without a time zone it is taken as UTC."""
    labels: Mapping[str, str]
    """To find it by; at most 32 of 63 characters each."""
    context_id: str
    """Tasks with one context share history."""
    retry: RetryPolicy
    """What happens when an attempt fails."""


def build_spec(agent: str, prompt: str, options: TaskOptions, uploaded: Sequence[str] = ()) -> task_pb2.TaskSpec:
    """Write a TaskSpec; `uploaded` are the ids that `files` got. Raises InvalidRequest for what isn't JSON."""
    spec = task_pb2.TaskSpec(agent=agent, prompt=prompt)
    if not options and not uploaded:
        return spec
    if options.get("parameters"):
        _fill(spec.parameters, options["parameters"], "parameters")
    if options.get("constraints"):
        _fill(spec.constraints, options["constraints"], "constraints")
    spec.artifact_ids.extend((*uploaded, *options.get("artifact_ids", ())))
    spec.input.extend(options.get("input", ()))
    spec.priority = options.get("priority", 0)
    if "timeout_s" in options:
        spec.timeout.CopyFrom(duration(options["timeout_s"]))
    if "queue_timeout_s" in options:
        spec.queue_timeout.CopyFrom(duration(options["queue_timeout_s"]))
    if "idle_timeout_s" in options:
        spec.idle_timeout.CopyFrom(duration(options["idle_timeout_s"]))
    if "start_time" in options:
        spec.start_time.FromDatetime(in_utc(options["start_time"]))
    spec.labels.update(options.get("labels", {}))
    spec.context_id = options.get("context_id", "")
    if "retry" in options:
        spec.retry.CopyFrom(options["retry"])
    return spec


def in_utc(moment: datetime) -> datetime:
    """Return a moment; one without a time zone is meant in UTC."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _fill(struct: struct_pb2.Struct, values: Mapping[str, Json], field: str) -> None:
    try:
        struct.update(dict(values))
    except (TypeError, ValueError) as error:
        raise InvalidRequest(
            "a field is wrong", violations=[(f"spec.{field}", "must hold JSON values only")]
        ) from error
