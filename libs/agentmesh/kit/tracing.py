"""Spans of work that has ended, on their way to whoever collects them; nothing ever waits for that.

A span is made when its work is over, however it ended, so none is left open. OpenTelemetry is imported only where
tracing is on.
"""

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

from prometheus_client import Counter

from agentmesh.kit import names, telemetry, trace_context
from agentmesh.kit.background import Background
from agentmesh.kit.settings import Monitoring

log = telemetry.logger(__name__)

_exported = Counter(names.SPANS_EXPORTED_TOTAL, "Spans that the collector took")
_dropped = Counter(names.SPANS_DROPPED_TOTAL, "Spans that were lost", ["reason"])

CLOSE_S = 2.0
"""How long the end of the process waits for spans that are still queued."""
_LINGER_S = 1.0
_MAX_BATCH = 512
_SAMPLED = 0x01
_TRACE_ID_RANGE = 1 << 64

outgoing: ContextVar[str] = ContextVar("outgoing", default="")
"""What calls that the current task makes to servers outside the mesh tell them of the trace; empty for nothing."""

Value = str | bool | int | float | Sequence[str]


@dataclass(frozen=True, slots=True)
class Span:
    """Work that has ended. `parent` is the W3C trace context that it was done for, `links` are those of other work that
    it has to do with; times are nanoseconds since 1970."""

    name: str
    parent: str
    span_id: str
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Value] = field(default_factory=dict)
    kind: Literal["internal", "client", "server"] = "internal"
    failed: bool = False
    links: Sequence[str] = ()


@dataclass(slots=True)
class OpenSpan:
    """Work that goes on, for the trace context `parent`. `code` is how it ends, as its protocol names that."""

    parent: str
    span_id: str
    start_ns: int
    code: str = ""
    reason: str = ""
    links: list[str] = field(default_factory=list)

    @property
    def context(self) -> str:
        """The trace context of what is done for it."""
        return trace_context.child_context(self.parent, self.span_id)


Export = Callable[[Sequence[Span]], bool]
"""Sends spans, and says whether they were taken; may block, in a thread of its own."""


class Tracer:
    """Takes spans from any thread and has them exported in batches.

    Recorded is what the flag of its trace context asks for and what `ratio` of all trace ids leaves in, so that every
    service records the same traces, and no client can make it record more. At most `max_queued` spans are held.
    """

    def __init__(self, export: Export, *, ratio: float, max_queued: int, stop: Callable[[], None]) -> None:
        self._export = export
        self._bound = round(ratio * _TRACE_ID_RANGE)
        self._stop = stop
        self._lost = _dropped.labels("queue_full")
        self._refused = _dropped.labels("not_exported")
        self._queue: Background[Span] = Background(
            self._send,
            name="spans",
            max_size=max_queued,
            on_drop=self._lost.inc,
            max_batch=_MAX_BATCH,
            linger_s=_LINGER_S,
        )

    def wants(self, traceparent: str) -> bool:
        """Say whether spans of a trace are recorded."""
        try:
            return bool(int(traceparent[53:55], 16) & _SAMPLED) and int(traceparent[19:35], 16) < self._bound
        except ValueError:
            return False

    def new_trace(self) -> str:
        """Return the trace context of a span that begins a trace, or nothing if that is not recorded."""
        half = random.getrandbits(64)  # the one that `wants` looks at
        return trace_context.root_context(random.getrandbits(64) << 64 | half) if half < self._bound else ""

    def begin(self, received: str | None) -> OpenSpan | None:
        """Return the span of work that begins now, in the trace that was received or in a new one; None if that is not
        recorded."""
        parent = trace_context.received_or_root(received)
        return OpenSpan(parent, trace_context.new_span_id(), time.time_ns()) if self.wants(parent) else None

    def end(self, span: OpenSpan, name: str, attributes: Mapping[str, Value], *, failed: bool) -> None:
        """Record a server's work, which ends now."""
        self.record(
            Span(
                name,
                parent=span.parent,
                span_id=span.span_id,
                start_ns=span.start_ns,
                end_ns=time.time_ns(),
                attributes=attributes,
                kind="server",
                failed=failed,
                links=span.links,
            )
        )

    def record(self, span: Span) -> None:
        """Queue a span, or drop and count it; ask `wants` first. Returns at once."""
        self._queue.put(span)

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Send what is queued, as far as there is time, and stop."""
        self._queue.close(timeout_s)
        self._stop()

    def _send(self, spans: list[Span]) -> None:
        try:
            taken = self._export(spans)
        except Exception as error:  # noqa: BLE001 - an exporter's fault must not end the thread; it is counted
            log.error("span_export_failed", error=type(error).__name__)
            taken = False
        (_exported if taken else self._refused).inc(len(spans))


def open_tracer(settings: Monitoring, service: str, stack: AsyncExitStack) -> Tracer | None:
    """Return what spans of a service go to, or None where tracing is off.

    The stack closes it: open it first, so that work which the end of the process cuts off has spans as well.
    """
    if not settings.tracing:
        return None
    from agentmesh.kit.otlp import OtlpExporter

    exporter = OtlpExporter(settings.otlp_endpoint, service)
    tracer = Tracer(
        exporter.export, ratio=settings.sampling_ratio, max_queued=settings.span_queue, stop=exporter.shutdown
    )
    stack.push_async_callback(asyncio.to_thread, tracer.close)
    return tracer
