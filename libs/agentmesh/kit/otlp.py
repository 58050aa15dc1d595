"""Sends spans to a collector in OpenTelemetry's protocol; the only file that imports OpenTelemetry."""

import logging
from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status, StatusCode

from agentmesh import __version__
from agentmesh.kit import telemetry
from agentmesh.kit.trace_context import NO_PARENT
from agentmesh.kit.tracing import Span

log = telemetry.logger(__name__)

_KINDS = {"internal": SpanKind.INTERNAL, "client": SpanKind.CLIENT, "server": SpanKind.SERVER}


class OtlpExporter:
    """A connection to a collector; where no endpoint is given, the OTEL_EXPORTER_OTLP_* variables say which."""

    def __init__(self, endpoint: str | None, service: str) -> None:
        # It would write a line for each try; ours says once that spans are lost, and the metric how many.
        logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
        self._exporter = OTLPSpanExporter(endpoint=endpoint)
        attributes = {"service.namespace": "agentmesh", "service.name": service, "service.version": __version__}
        self._resource = Resource.create(attributes)
        self._scope = InstrumentationScope("agentmesh", __version__)
        self._failing = False

    def export(self, spans: Sequence[Span]) -> bool:
        """Send spans; say whether the collector took them. Blocks for up to OTEL_EXPORTER_OTLP_TIMEOUT (10 s)."""
        taken = self._exporter.export([self._written(span) for span in spans]) is SpanExportResult.SUCCESS
        if taken == self._failing:
            self._failing = not taken
            log.warning("spans_lost", spans=len(spans)) if self._failing else log.info("spans_taken_again")
        return taken

    def shutdown(self) -> None:
        """Stop trying and close the connection."""
        self._exporter.shutdown()

    def _written(self, span: Span) -> ReadableSpan:
        trace_id, flags = int(span.parent[3:35], 16), TraceFlags(int(span.parent[53:55], 16))
        parent = span.parent[36:52]
        is_root = parent == NO_PARENT
        return ReadableSpan(
            name=span.name,
            context=SpanContext(trace_id, int(span.span_id, 16), is_remote=False, trace_flags=flags),
            parent=None if is_root else SpanContext(trace_id, int(parent, 16), is_remote=True, trace_flags=flags),
            resource=self._resource,
            attributes=dict(span.attributes),
            kind=_KINDS[span.kind],
            links=[Link(_context_of(link)) for link in span.links],
            status=Status(StatusCode.ERROR if span.failed else StatusCode.UNSET),
            start_time=span.start_ns,
            end_time=span.end_ns,
            instrumentation_scope=self._scope,
        )


def _context_of(traceparent: str) -> SpanContext:
    trace_id, span_id = int(traceparent[3:35], 16), int(traceparent[36:52], 16)
    return SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(int(traceparent[53:55], 16)))
