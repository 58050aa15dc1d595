"""What the books hold: virtual keys, and usage added up by day."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import Enum
from fnmatch import fnmatchcase
from typing import NamedTuple, Protocol


def fits(name: str, pattern: str) -> bool:
    """Say whether a name fits a pattern, in which * stands for any characters and every other one for itself."""
    return fnmatchcase(name, pattern.replace("[", "[[]").replace("?", "[?]"))


@dataclass(frozen=True, slots=True)
class Limits:
    """How much somebody may have; 0 means no bound. Budgets are in billionths of a US dollar."""

    budget_day: int = 0
    budget_month: int = 0
    requests_per_minute: int = 0
    tokens_per_minute: int = 0

    @property
    def bound(self) -> bool:
        """Whether there is any bound."""
        return any((self.budget_day, self.budget_month, self.requests_per_minute, self.tokens_per_minute))


@dataclass(frozen=True, slots=True)
class VirtualKey:
    """A client's credential; its secret is known by digest only. Times are milliseconds since 1970, 0 for never."""

    id: str
    tenant: str
    name: str
    sha256: str
    hint: str
    models: tuple[str, ...]
    limits: Limits
    created_ms: int
    expires_ms: int = 0
    revoked_ms: int = 0

    def is_live(self, now_ms: int) -> bool:
        """Whether it may be used now."""
        return not self.revoked_ms and not (self.expires_ms and now_ms >= self.expires_ms)

    def may_ask(self, model_id: str) -> bool:
        """Whether it may ask a model."""
        return not self.models or any(fits(model_id, pattern) for pattern in self.models)


class Account(NamedTuple):
    """Whose usage it is, of what; `model` is PROVIDER/MODEL, `task_id` empty outside of tasks."""

    tenant: str
    key_id: str
    model: str
    task_id: str


@dataclass(slots=True)
class Totals:
    """What was used."""

    requests: int = 0
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nano_usd: int = 0

    def add(self, other: "Totals") -> None:
        """Add what was used elsewhere."""
        self.requests += other.requests
        self.calls += other.calls
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.cached_input_tokens += other.cached_input_tokens
        self.cache_write_tokens += other.cache_write_tokens
        self.reasoning_tokens += other.reasoning_tokens
        self.cost_nano_usd += other.cost_nano_usd

    def values(self) -> tuple[int, ...]:
        """Return the counts in the order of COUNTS."""
        return tuple(getattr(self, name) for name in COUNTS)


COUNTS = tuple(field.name for field in fields(Totals))


class Entry(NamedTuple):
    """What was used of an account on a day, as 2026-11-26."""

    day: str
    account: Account
    totals: Totals


class By(Enum):
    """What sums are apart by; the values are columns."""

    TENANT = "tenant"
    KEY = "key_id"
    MODEL = "model"
    DAY = "day"
    TASK = "task_id"


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """Which usage to add up; empty texts mean any. Days are inclusive."""

    by: tuple[By, ...]
    from_day: str
    to_day: str
    tenant: str = ""
    key_id: str = ""
    model: str = ""
    task_id: str = ""
    limit: int = 1000

    @property
    def needs_tasks(self) -> bool:
        """Whether it is about single tasks."""
        return By.TASK in self.by or bool(self.task_id)


@dataclass(frozen=True, slots=True)
class UsageSum:
    """A sum, and what it is of in the order of the query's `by`."""

    of: tuple[str, ...]
    totals: Totals


class Books(Protocol):
    """Where keys and usage are kept. Every method raises Unavailable if that can't be reached."""

    async def add_key(self, key: VirtualKey) -> None:
        """Keep a new key."""

    async def key_by_digest(self, sha256: str) -> VirtualKey | None:
        """Return the key with this digest, in lower-case hexadecimal."""

    async def key_by_id(self, key_id: str) -> VirtualKey | None:
        """Return a key."""

    async def keys(self, tenant: str, limit: int) -> list[VirtualKey]:
        """Return a tenant's keys, or everybody's if it is empty, newest first."""

    async def revoke(self, tenant: str, key_id: str, now_ms: int) -> VirtualKey | None:
        """End a key of a tenant's, or anybody's if it is empty; return it as it is then."""

    async def add_usage(self, entries: Sequence[Entry]) -> None:
        """Add to the days' usage, all or nothing."""

    async def usage(self, query: UsageQuery) -> list[UsageSum]:
        """Add up, the costliest first."""

    async def prune(self, days_before: str, tasks_before: str) -> None:
        """Forget days, and tasks' shares of them, before these."""

    async def aclose(self) -> None:
        """Let go of the database."""
