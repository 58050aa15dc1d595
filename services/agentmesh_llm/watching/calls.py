"""Who asks, and what became of one call to a provider; for the books, the metrics and the traces."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from agentmesh.kit.semantic_names import CHAT
from agentmesh_llm.domain import Usage


class Caller(NamedTuple):
    """On whose account a call goes: a tenant, and where known its virtual key and its task.

    `links` are the trace contexts of several whose requests are answered by one call.
    """

    tenant: str
    key_id: str = ""
    task_id: str = ""
    traceparent: str = ""
    links: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Server:
    """Where a provider is, and who is behind it, if that is known."""

    vendor: str = ""
    address: str = ""
    port: int = 0


@dataclass(frozen=True, slots=True)
class Content:
    """What was said in a call, cut to a bound, as JSON in the form of OpenTelemetry's conventions."""

    asked: str
    answered: str


class CallRecord(NamedTuple):
    """One call to a provider that has ended, however it ended.

    `status` is "success" or a gRPC code in lower case, `error_type` says more. `estimated` says that the provider did
    not come to tell what it consumed. `first_word_s` is None for one that said nothing. Times are in seconds, but for
    `began_ns`, nanoseconds since 1970. `answered_by` is the model that the provider named. `span_id` is set if the
    provider was told it. There is `content` only where it is recorded.
    """

    caller: Caller
    provider: str
    model: str
    status: str
    usage: Usage
    estimated: bool
    duration_s: float
    first_word_s: float | None = None
    operation: str = CHAT
    server: Server = Server()
    answered_by: str = ""
    finish_reason: str = ""
    error_type: str = ""
    began_ns: int = 0
    span_id: str = ""
    content: Content | None = None


Observer = Callable[[CallRecord], None]
"""Hears of each call when it has ended; must neither wait nor raise."""


def _nobody(_: CallRecord) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class Watch:
    """Who hears of every call, on whose account it may be, and how many characters of what is said in it."""

    observe: Observer = _nobody
    content_characters: int = 0
