"""What an agent is: a class with a name, parameters and `run`, or a function with a decorator."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from pydantic import BaseModel, ConfigDict

from agentmesh.api.task.v1 import events_pb2, task_pb2
from agentmesh.kit.structs import fault_of
from agentmesh.sdk.errors import AgentError


@dataclass(frozen=True, slots=True)
class Skill:
    """One thing that an agent can do."""

    id: str
    name: str
    description: str = ""
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Check:
    """One rule that an answer was held against."""

    name: str
    passed: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of checks on an answer; `score` is from 0 to 1."""

    passed: bool
    score: float
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """What a completed task leaves; `data` must be JSON. Artifacts are added by the runner."""

    text: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    verdict: Verdict | None = None

    def to_wire(self) -> events_pb2.TaskResult:
        """Write the result as the contract has it."""
        wire = events_pb2.TaskResult(text=self.text)
        if self.data:
            wire.data.CopyFrom(to_struct(self.data))
            if fault := fault_of(wire.data):
                raise AgentError("BAD_RESULT", f"the result's data {fault}")
        if self.verdict is not None:
            checks = [events_pb2.Check(name=c.name, passed=c.passed, detail=c.detail) for c in self.verdict.checks]
            verdict = events_pb2.Verdict(passed=self.verdict.passed, score=self.verdict.score, checks=checks)
            wire.verdict.CopyFrom(verdict)
        return wire


class NoParameters(BaseModel):
    """An agent that takes no parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Agent:
    """Base of agents. Subclass it, name it, and write `run`; one instance serves many tasks at once.

    `inline` runs it in the runner's main process: for async agents that never block. Others run in a process
    of their own, one task at a time. `run` may be a plain function; its context then has blocking methods.
    """

    name: ClassVar[str]
    version: ClassVar[str] = "1"
    description: ClassVar[str] = ""
    skills: ClassVar[tuple[Skill, ...]] = ()
    inline: ClassVar[bool] = False
    Parameters: ClassVar[type[BaseModel]] = NoParameters

    def run(self, ctx: Any, parameters: Any) -> Any:
        """Do the task: return a Result, a text or None, or an awaitable of one."""
        raise NotImplementedError

    @classmethod
    def to_wire(cls) -> task_pb2.Agent:
        """Describe the agent as the contract has it."""
        return task_pb2.Agent(
            name=cls.name,
            version=cls.version,
            description=cls.description,
            parameters_schema=to_struct(cls.Parameters.model_json_schema()),
            skills=[
                task_pb2.Skill(id=s.id, name=s.name, description=s.description, examples=s.examples) for s in cls.skills
            ],
        )


def agent(
    name: str,
    *,
    version: str = "1",
    description: str = "",
    parameters: type[BaseModel] = NoParameters,
    inline: bool = False,
    skills: tuple[Skill, ...] = (),
) -> Callable[[Callable[..., Any]], type[Agent]]:
    """Make an agent of a function that takes (ctx) or (ctx, parameters)."""

    def wrap(function: Callable[..., Any]) -> type[Agent]:
        takes_parameters = len(inspect.signature(function).parameters) > 1

        if inspect.iscoroutinefunction(function):

            async def run(self: Agent, ctx: Any, given: Any) -> Any:
                return await (function(ctx, given) if takes_parameters else function(ctx))

        else:

            def run(self: Agent, ctx: Any, given: Any) -> Any:  # type: ignore[misc]
                return function(ctx, given) if takes_parameters else function(ctx)

        return type(
            function.__name__,
            (Agent,),
            {
                "__doc__": function.__doc__,
                "__module__": function.__module__,
                "name": name,
                "version": version,
                "description": description or (inspect.getdoc(function) or "").partition("\n")[0],
                "Parameters": parameters,
                "inline": inline,
                "skills": skills,
                "run": run,
            },
        )

    return wrap


def to_struct(data: dict[str, Any]) -> Struct:
    """Turn JSON-able data into a Struct."""
    struct = Struct()
    json_format.ParseDict(data, struct)
    return struct
