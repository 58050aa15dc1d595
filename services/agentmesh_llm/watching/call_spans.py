"""Makes a span of each call to a provider, in the words of OpenTelemetry's conventions for generative AI."""

from agentmesh.kit import semantic_names as semantic
from agentmesh.kit.trace_context import new_span_id
from agentmesh.kit.tracing import Span, Tracer, Value
from agentmesh_llm.watching.calls import CallRecord, Observer


def recorder(tracer: Tracer) -> Observer:
    """Return what makes a span of each call that belongs to a trace which is recorded."""

    def observe(record: CallRecord) -> None:
        # A batch of several callers belongs to none of their traces: it begins one, and is linked with theirs.
        traceparent = record.caller.traceparent or tracer.new_trace()
        if traceparent and tracer.wants(traceparent):
            tracer.record(span_of(record, traceparent))

    return observe


def span_of(record: CallRecord, traceparent: str) -> Span:
    """Return the span of a call that has ended, in the trace of what it was made for."""
    return Span(
        f"{record.operation} {record.model}",
        parent=traceparent,
        span_id=record.span_id or new_span_id(),
        start_ns=record.began_ns,
        end_ns=record.began_ns + int(record.duration_s * 1e9),
        attributes={name: value for name, value in _attributes(record).items() if value not in ("", None)},
        kind="client",
        failed=record.status != "success",
        links=record.caller.links,
    )


def _attributes(record: CallRecord) -> dict[str, Value | None]:
    caller, usage, content = record.caller, record.usage, record.content
    return {
        semantic.OPERATION_NAME: record.operation,
        semantic.PROVIDER_NAME: record.server.vendor or record.provider,
        semantic.PROVIDER: record.provider,
        semantic.REQUEST_MODEL: record.model,
        semantic.REQUEST_STREAM: True if record.operation == semantic.CHAT else None,
        semantic.RESPONSE_MODEL: record.answered_by,
        semantic.RESPONSE_FINISH_REASONS: (record.finish_reason,) if record.finish_reason else None,
        semantic.RESPONSE_TIME_TO_FIRST_CHUNK: record.first_word_s,
        semantic.USAGE_INPUT_TOKENS: usage.input_tokens or None,
        semantic.USAGE_OUTPUT_TOKENS: usage.output_tokens or None,
        semantic.USAGE_CACHE_READ_INPUT_TOKENS: usage.cached_input_tokens or None,
        semantic.USAGE_CACHE_CREATION_INPUT_TOKENS: usage.cache_write_tokens or None,
        semantic.USAGE_REASONING_OUTPUT_TOKENS: usage.reasoning_tokens or None,
        semantic.USAGE_ESTIMATED: record.estimated or None,
        semantic.ERROR_TYPE: record.error_type,
        semantic.STATUS: record.status,
        semantic.SERVER_ADDRESS: record.server.address,
        semantic.SERVER_PORT: record.server.port or None,
        semantic.TENANT: caller.tenant,
        semantic.TASK_ID: caller.task_id,
        semantic.KEY_ID: caller.key_id,
        semantic.INPUT_MESSAGES: content.asked if content else None,
        semantic.OUTPUT_MESSAGES: content.answered if content else None,
    }
