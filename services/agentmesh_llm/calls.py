"""Who asks, and what became of one call to a provider; for the books, the metrics and the traces."""

from collections.abc import Callable
from dataclasses import dataclass

from agentmesh_llm.domain import Usage


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose account a call goes: a tenant, and where known its virtual key and its task."""

    tenant: str
    key_id: str = ""
    task_id: str = ""
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One call to a provider that has ended, however it ended.

    `status` is "success" or a gRPC code in lower case. `estimated` says that the provider did not come to tell what
    it consumed. `first_word_s` is None for one that said nothing. Times are in seconds.
    """

    caller: Caller
    provider: str
    model: str
    status: str
    usage: Usage
    estimated: bool
    duration_s: float
    first_word_s: float | None = None


Observer = Callable[[CallRecord], None]
"""Hears of each call when it has ended; must neither wait nor raise."""
