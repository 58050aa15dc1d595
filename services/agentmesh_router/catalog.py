"""The agents that can be asked: what was ever announced, who serves it now, which parameters fit."""

from collections.abc import Iterable
from typing import Any

import jsonschema_rs

from agentmesh.api.task.v1 import task_pb2
from agentmesh.kit.errors import InvalidRequest, NotFound, Unavailable
from agentmesh.kit.structs import to_python

_MAX_REMEMBERED = 4096
_MAX_NAMED = 20


class Catalog:
    """Agents by name. Parameters that were found good are remembered, so that repeats cost nothing.

    Unless it `validates`, parameters are for the agent to judge. Until it has learned what storage knows, an agent that
    it doesn't know may exist all the same.
    """

    def __init__(self, *, validates: bool = True) -> None:
        self._validates = validates
        self._learned = False
        self._agents: dict[str, task_pb2.Agent] = {}
        self._validators: dict[str, Any] = {}
        self._good: set[tuple[str, bytes]] = set()

    def announce(self, agents: Iterable[task_pb2.Agent]) -> list[task_pb2.Agent]:
        """Take agents in; return those that are new or differ from what was known."""
        changed = [agent for agent in agents if self._agents.get(agent.name) != agent]
        for agent in changed:
            self._agents[agent.name] = agent
            self._validators.pop(agent.name, None)
        if changed:
            self._good.clear()
        return changed

    def learn(self, agents: Iterable[task_pb2.Agent]) -> None:
        """Take in everything that storage knows."""
        self.announce(agents)
        self._learned = True

    async def is_known(self) -> bool:
        """Say whether storage was asked and any agent was ever announced: before that, tasks would be refused."""
        return self._learned and bool(self._agents)

    def list(self, serving: Iterable[str]) -> list[task_pb2.Agent]:
        """Return every agent by name, saying which are served now."""
        now = set(serving)
        return [_marked(agent, name in now) for name, agent in sorted(self._agents.items())]

    def get(self, name: str, serving: Iterable[str]) -> task_pb2.Agent:
        """Return one agent or raise NotFound."""
        agent = self._agents.get(name)
        if agent is None:
            self._check_learned()
            raise NotFound("there is no such agent", reason="AGENT_NOT_FOUND")
        return _marked(agent, name in set(serving))

    def check(self, spec: task_pb2.TaskSpec) -> None:
        """Raise InvalidRequest if the agent is not known or the parameters don't fit its schema."""
        agent = self._agents.get(spec.agent)
        if agent is None:
            self._check_learned()
            known = ", ".join(sorted(self._agents)[:_MAX_NAMED]) or "none yet: is a runner connected?"
            raise InvalidRequest(
                "there is no such agent",
                reason="AGENT_NOT_FOUND",
                violations=[("spec.agent", f"is not known; known agents: {known}")],
            )
        if not self._validates:
            return
        key = (
            spec.agent,
            spec.parameters.SerializeToString(deterministic=True) if spec.HasField("parameters") else b"",
        )
        if key in self._good:
            return
        violations = [
            (".".join(("spec.parameters", *map(str, error.instance_path))), error.message)
            for error in self._validator(agent).iter_errors(to_python(spec.parameters))
        ]
        if violations:
            raise InvalidRequest(
                "the parameters don't fit the agent's schema", reason="PARAMETERS_INVALID", violations=violations[:20]
            )
        if len(self._good) >= _MAX_REMEMBERED:
            self._good.clear()
        self._good.add(key)

    def _check_learned(self) -> None:
        if not self._learned or not self._agents:
            raise Unavailable("no agent is known yet: is a runner connected?", reason="NOT_READY", retry_after_s=0.2)

    def _validator(self, agent: task_pb2.Agent) -> Any:
        validator = self._validators.get(agent.name)
        if validator is None:
            validator = jsonschema_rs.validator_for(to_python(agent.parameters_schema) or True)
            self._validators[agent.name] = validator
        return validator


def _marked(agent: task_pb2.Agent, serving: bool) -> task_pb2.Agent:
    copy = task_pb2.Agent()
    copy.CopyFrom(agent)
    copy.serving = serving
    return copy
