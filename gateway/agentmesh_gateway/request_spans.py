"""Makes a span of each request, however it ends, and begins a trace where its client did not."""

from starlette.datastructures import Headers
from starlette.types import Scope

from agentmesh.kit import names
from agentmesh.kit import semantic_names as semantic
from agentmesh.kit.tracing import OpenSpan, Tracer

TRACE_KEY = "agentmesh.traceparent"
"""Where the scope of a request has the trace context of what is done for it."""
_SERVER_FAULT = 500


class RequestSpans:
    """The spans of the gateway; without a tracer there are none."""

    def __init__(self, tracer: Tracer | None) -> None:
        self._tracer = tracer

    def begin(self, scope: Scope) -> OpenSpan | None:
        """Return the span of a request that comes in; None if its trace is not recorded."""
        if self._tracer is None:
            return None
        span = self._tracer.begin(Headers(scope=scope).get(names.TRACEPARENT))
        if span is not None:
            scope[TRACE_KEY] = span.context
        return span

    def end(self, span: OpenSpan, method: str, route: str, status: int) -> None:
        """Record a span whose request is over."""
        assert self._tracer is not None
        failed = status >= _SERVER_FAULT
        attributes: dict[str, str | int] = {
            semantic.HTTP_METHOD: method,
            semantic.HTTP_ROUTE: route,
            semantic.HTTP_STATUS: status,
        }
        if failed:
            attributes[semantic.ERROR_TYPE] = str(status)
        self._tracer.end(span, f"{method} {route}", attributes, failed=failed)
