"""Makes a span of each call that a server answers, however it ends: by an answer, an error, a cancel."""

import time
from dataclasses import dataclass, field

from agentmesh.kit import semantic_names as semantic
from agentmesh.kit import trace_context
from agentmesh.kit.auth import Identity
from agentmesh.kit.tracing import Span, Tracer

_CANCELLED = "CANCELLED"
# The codes that are the server's fault, as OpenTelemetry's conventions have it; the others are its client's.
_FAILURES = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})


@dataclass(slots=True)
class OpenSpan:
    """A call that is being answered. `code` is how it ends; unless somebody says otherwise, its caller has left."""

    parent: str
    span_id: str
    start_ns: int
    code: str = _CANCELLED
    reason: str = ""
    links: list[str] = field(default_factory=list)

    @property
    def context(self) -> str:
        """The trace context of what is done for the call."""
        return trace_context.child_context(self.parent, self.span_id)


class RpcSpans:
    """The spans of one method. A call that belongs to no trace begins one if `begins` is set."""

    def __init__(self, tracer: Tracer, method: str, *, begins: bool) -> None:
        self._tracer = tracer
        self._method = method
        self._begins = begins

    def begin(self, received: str | None) -> OpenSpan | None:
        """Return the span of a call with this trace context; None if its trace is not recorded."""
        if not received and not self._begins:
            return None
        parent = trace_context.received_or_root(received)
        if not self._tracer.wants(parent):
            return None
        return OpenSpan(parent, trace_context.new_span_id(), time.time_ns())

    def end(self, span: OpenSpan, identity: Identity) -> None:
        """Record a span whose call is over."""
        failed = span.code in _FAILURES
        attributes: dict[str, str] = {
            semantic.RPC_SYSTEM: semantic.GRPC,
            semantic.RPC_METHOD: self._method,
            semantic.RPC_STATUS: span.code,
        }
        if identity.tenant:
            attributes[semantic.TENANT] = identity.tenant
        if identity.task is not None:
            attributes[semantic.TASK_ID] = identity.task.task_id
        if failed:
            attributes[semantic.ERROR_TYPE] = span.reason or span.code
        self._tracer.record(
            Span(
                self._method,
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
