"""Say what models cost, and how much of them whoever asks may have."""

from typing import Annotated

from pydantic import Field, field_validator

from agentmesh.kit.setting_types import Name, Seconds, Section

Usd = Annotated[float, Field(ge=0, le=1_000_000)]
Budget = Annotated[float, Field(ge=0, le=1_000_000_000)]
PerMinute = Annotated[int, Field(ge=0, le=1_000_000_000)]


class ModelPrice(Section):
    """What a million tokens of some models cost, in US dollars."""

    models: Annotated[str, Field(min_length=1, max_length=512)]
    """PROVIDER/MODEL with `*` for any characters; the first price whose models fit counts."""
    input_usd: Usd
    """What goes to the model."""
    output_usd: Usd = 0
    """0 for models that write nothing, such as those that make embeddings."""
    cached_input_usd: Usd | None = None
    """Input that the provider's prompt cache served; by default as other input."""
    cache_write_usd: Usd | None = None
    """Input that the provider's prompt cache took in; by default as other input."""


class SpendLimits(Section):
    """How much of the models somebody may have; 0 means no bound."""

    budget_day_usd: Budget = 0
    """From midnight to midnight, UTC."""
    budget_month_usd: Budget = 0
    """By the calendar, UTC."""
    requests_per_minute: PerMinute = 0
    """Calls; over all llm-proxies with Redis."""
    tokens_per_minute: PerMinute = 0
    """Input and output together."""


class TenantSpendLimits(SpendLimits):
    """The limits of one tenant, whichever of its keys is used."""

    tenant: Name
    """Whose limits these are."""


class Spending(Section):
    """Limits of tenants, and how the books are kept."""

    default: SpendLimits = SpendLimits()
    """For tenants that `tenants` does not name."""
    tenants: tuple[TenantSpendLimits, ...] = ()
    """Tenants that get something else than the others."""
    assumed_output_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """Set aside for a running answer whose request gives no bound."""
    flush_s: Annotated[float, Field(ge=0.05, le=60)] = 0.5
    """How often what was used is written down; a process that is killed forgets at most so much."""
    keep_days: Annotated[int, Field(ge=32, le=3660)] = 400
    """How long daily totals are kept; usage by task is kept for `retention.tasks_s`."""
    key_cache_s: Seconds = 5
    """After so long a key that was revoked elsewhere is refused here."""

    @field_validator("tenants")
    @classmethod
    def _each_is_named_once(cls, tenants: tuple[TenantSpendLimits, ...]) -> tuple[TenantSpendLimits, ...]:
        if len({one.tenant for one in tenants}) < len(tenants):
            raise ValueError("names one twice")
        return tenants

    def of(self, tenant: str) -> SpendLimits:
        """Return a tenant's limits."""
        return next((one for one in self.tenants if one.tenant == tenant), self.default)
