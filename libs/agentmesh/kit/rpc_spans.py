"""Makes a span of each call that a server answers, however it ends: by an answer, an error, a cancel."""

from agentmesh.kit import semantic_names as semantic
from agentmesh.kit.auth import Identity
from agentmesh.kit.tracing import OpenSpan, Tracer

_CANCELLED = "CANCELLED"  # nobody says how a call ends whose caller has left
# The codes that are the server's fault, as OpenTelemetry's conventions have it; the others are its client's.
_FAILURES = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})


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
        return self._tracer.begin(received)

    def end(self, span: OpenSpan, identity: Identity) -> None:
        """Record a span whose call is over."""
        code = span.code or _CANCELLED
        failed = code in _FAILURES
        attributes: dict[str, str] = {
            semantic.RPC_SYSTEM: semantic.GRPC,
            semantic.RPC_METHOD: self._method,
            semantic.RPC_STATUS: code,
        }
        if identity.tenant:
            attributes[semantic.TENANT] = identity.tenant
        if identity.task is not None:
            attributes[semantic.TASK_ID] = identity.task.task_id
        if failed:
            attributes[semantic.ERROR_TYPE] = span.reason or code
        self._tracer.end(span, self._method, attributes, failed=failed)
