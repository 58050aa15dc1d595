"""W3C trace contexts: which trace work belongs to, and under which span."""

import hashlib
import os
import random
import re
import sys

_TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
NO_PARENT = "0" * 16


def traceparent_or_new(received: str | None) -> str:
    """Return the caller's trace context, or start a new trace."""
    if received and _TRACEPARENT.fullmatch(received):
        return received
    # Ids have to differ, not to be secret.
    return f"00-{random.getrandbits(128):032x}-{random.getrandbits(64):016x}-01"


def received_or_root(received: str | None) -> str:
    """Return the caller's trace context, or that of a span that begins a trace."""
    return received if received and _TRACEPARENT.fullmatch(received) else root_context()


def root_context(number: int | None = None) -> str:
    """Return the trace context of a span that begins a trace, which gets this number of 128 bits: it has no parent."""
    return f"00-{random.getrandbits(128) if number is None else number:032x}-{NO_PARENT}-01"


def child_context(traceparent: str, span_id: str) -> str:
    """Return the trace context that goes out with a span's own calls."""
    return f"{traceparent[:36]}{span_id}{traceparent[52:]}"


def trace_id(traceparent: str) -> str:
    """Return the trace id of a trace context."""
    return traceparent[3:35]


def new_span_id() -> str:
    """Return a new span's id."""
    return os.urandom(8).hex()


def attempt_span_id(task_id: str, attempt: int) -> str:
    """Return the id of an attempt's span, which everybody can tell: the next attempt, and whoever spawned it."""
    return hashlib.blake2b(f"{task_id}/{attempt}".encode(), digest_size=8).hexdigest()


def current() -> str:
    """Return the context of the OpenTelemetry span that is open here, or nothing; OpenTelemetry is not imported."""
    opentelemetry = sys.modules.get("opentelemetry.trace")
    if opentelemetry is None:
        return ""
    context = opentelemetry.get_current_span().get_span_context()
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
