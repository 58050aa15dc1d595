"""Say who gets how much, and how long what has ended is kept."""

from typing import Annotated

from pydantic import Field, field_validator

from agentmesh.kit.setting_types import Count, Name, Seconds, Section


class TenantLimits(Section):
    """What one tenant may have; 0 means no bound."""

    tenant: Name
    """Whose limits these are."""
    weight: Annotated[int, Field(ge=1, le=100)] = 1
    """Its share of the slots beside other tenants that wait."""
    max_running: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Tasks that run at once, over the whole mesh."""
    max_waiting: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Tasks that wait for a slot; 0 means `tasks.queue_limit`."""
    submits_per_s: Annotated[float, Field(ge=0, le=1_000_000)] = 0
    """Submits a second, over all routers, if `security.rate_limiting` is on."""
    burst: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Submits that may come at once; 0 means one second's worth, at least 1."""


class AgentLimit(Section):
    """How much of one agent runs at once."""

    agent: Name
    """The agent's name."""
    max_running: Count
    """Its tasks that run at once, over the whole mesh and all tenants."""


class LabelLimit(Section):
    """How many tasks of a tenant with one and the same value of a label run at once."""

    label: Annotated[str, Field(min_length=1, max_length=63)]
    """The label's name."""
    max_running: Count
    """Tasks with one and the same value of it that run at once."""


class Limits(Section):
    """Who gets how much, over the whole mesh; and when the router refuses rather than queues."""

    default: TenantLimits = TenantLimits(tenant="default")
    """For tenants that `tenants` does not name; its own `tenant` says nothing."""
    tenants: tuple[TenantLimits, ...] = ()
    """Tenants that get something else than the others."""
    agents: tuple[AgentLimit, ...] = ()
    """Agents that are bounded."""
    labels: tuple[LabelLimit, ...] = ()
    """Labels whose values are bounded."""
    target_delay_s: Annotated[float, Field(gt=0, le=60)] = 0.1
    """When submits wait longer than this for their commit, some are refused, the loudest tenant's first."""

    @field_validator("tenants", "agents", "labels")
    @classmethod
    def _each_is_named_once(cls, entries: tuple[Section, ...]) -> tuple[Section, ...]:
        names = [next(iter(entry.model_dump().values())) for entry in entries]
        if len(set(names)) < len(names):
            raise ValueError("names one twice")
        return entries

    def of(self, tenant: str) -> TenantLimits:
        """Return a tenant's limits."""
        return next((limits for limits in self.tenants if limits.tenant == tenant), self.default)


class Retention(Section):
    """How long what has ended is kept."""

    events_s: Seconds = 7 * 86_400
    """Events and steps of ended tasks."""
    tasks_s: Seconds = 30 * 86_400
    """Ended tasks with their results and artifacts."""
    request_ids_s: Seconds = 86_400
    """How long after its task's end a request_id is remembered."""
    batch: Annotated[int, Field(ge=1, le=10_000)] = 500
    """Tasks that one transaction prunes at most."""
