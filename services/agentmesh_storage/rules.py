"""What the operator decides about tasks: how often they may be lost, who shares slots how, what runs at once."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from agentmesh_storage.domain import Task


@dataclass(frozen=True, slots=True)
class Rules:
    """Bounds on running tasks and shares of slots; an absent name has no bound and a weight of 1.

    `tenants` and `agents` bound how many tasks run at once; `labels` bounds, by label name, how many of a tenant with
    the same value do. The `default_` values are for tenants that are not named. 0 is no bound.
    """

    max_losses: int = 10
    weights: Mapping[str, int] = field(default_factory=dict)
    default_weight: int = 1
    tenants: Mapping[str, int] = field(default_factory=dict)
    default_running: int = 0
    agents: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)

    @property
    def any_bound(self) -> bool:
        """Whether anything is bounded at all."""
        return bool(self.default_running or any(self.tenants.values()) or self.agents or self.labels)

    def weight_of(self, tenant: str) -> int:
        """Return a tenant's share, at least 1."""
        return self.weights.get(tenant, self.default_weight)

    def running_of(self, tenant: str) -> int:
        """Return how many tasks of a tenant may run at once; 0 is no bound."""
        return self.tenants.get(tenant, self.default_running)

    def limited_by(self, labels: Mapping[str, str]) -> str:
        """Return the labels of a task that bound it, a name=value a line."""
        if not self.labels or not labels:
            return ""
        return "\n".join(f"{name}={value}" for name, value in sorted(labels.items()) if name in self.labels)

    def bound(self, task: Task) -> bool:
        """Say whether a bound applies to a task; such a task is claimed from the backlog, where it is counted."""
        return bool(task.limited_by or task.agent in self.agents or self.running_of(task.tenant))
