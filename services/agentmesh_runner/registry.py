"""Finds agents: installed ones by entry point, others by path."""

import hashlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from agentmesh.kit import telemetry
from agentmesh.kit.errors import InvalidRequest, NotFound
from agentmesh.sdk import Agent

log = telemetry.logger(__name__)

_GROUP = "agentmesh.agents"


class Registry:
    """Agents by name. Agents from `paths` win over installed ones of the same name."""

    def __init__(self, agents: dict[str, type[Agent]]) -> None:
        self._classes = agents
        self._instances: dict[str, Agent] = {}

    @classmethod
    def load(cls, paths: Sequence[Path] = ()) -> "Registry":
        """Load every installed agent, and those in files and folders; raise InvalidRequest for a bad file."""
        agents: dict[str, type[Agent]] = {}
        for point in entry_points(group=_GROUP):
            agents[point.name] = point.load()
        for path in paths:
            for file in sorted(path.glob("*.py")) if path.is_dir() else [path]:
                for agent in agents_in(load_file(file)):
                    agents[agent.name] = agent
        return cls(agents)

    @property
    def classes(self) -> Sequence[type[Agent]]:
        """Return every agent, by name."""
        return [agent for _, agent in sorted(self._classes.items())]

    def get(self, name: str) -> Agent:
        """Return an agent, made on first use; raise NotFound if there is none."""
        agent = self._instances.get(name)
        if agent is None:
            kind = self._classes.get(name)
            if kind is None:
                raise NotFound("this runner has no such agent", reason="AGENT_NOT_FOUND")
            agent = self._instances[name] = kind()
        return agent


def load_file(file: Path) -> ModuleType:
    """Import a file as a module of its own."""
    if not file.is_file():
        raise InvalidRequest(f"there is no file {file}: give --agents a Python file or a folder of them")
    name = f"agentmesh_agents_{file.stem}_{hashlib.blake2b(str(file.resolve()).encode(), digest_size=4).hexdigest()}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise InvalidRequest(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def agents_in(module: ModuleType) -> list[type[Agent]]:
    """Return the agents that a module defines."""
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Agent) and value is not Agent and hasattr(value, "name")
    ]
    return [agent for agent in found if agent.__module__ == module.__name__]
