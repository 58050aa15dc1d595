"""What of a client's HTTP request goes on to the router: its credential, its trace and its patience."""

import math

from starlette.requests import Request

from agentmesh.kit import names, trace_context
from agentmesh.kit.errors import Unauthenticated
from agentmesh_gateway import problems
from agentmesh_gateway.request_spans import TRACE_KEY
from agentmesh_gateway.settings import Bounds

TIMEOUT_HEADER = "x-request-timeout"


def metadata_of(request: Request, bounds: Bounds) -> tuple[tuple[str, str], ...]:
    """Return the metadata of the onward call: `authorization` if there is one, and `traceparent`."""
    traceparent = traceparent_of(request)
    authorization = request.headers.get(names.AUTHORIZATION)
    if authorization is None:
        return ((names.TRACEPARENT, traceparent),)
    if len(authorization) > bounds.max_authorization_bytes:
        raise problems.HttpProblem(431, "the authorization header is too long", reason="HEADERS_TOO_LARGE")
    if not all(" " <= character <= "~" for character in authorization):
        raise Unauthenticated("the authorization header holds characters that no key has")
    return ((names.AUTHORIZATION, authorization), (names.TRACEPARENT, traceparent))


def traceparent_of(request: Request) -> str:
    """Return the trace context of what is done for a request: under its own span, if its trace is recorded."""
    span: str | None = request.scope.get(TRACE_KEY)
    return span or trace_context.traceparent_or_new(request.headers.get(names.TRACEPARENT))


def timeout_of(request: Request, bounds: Bounds) -> float:
    """Return the seconds that the client gives a unary call."""
    return patience_of(request, default_s=bounds.default_timeout_s, max_s=bounds.max_timeout_s)


def patience_of(request: Request, *, default_s: float, max_s: float) -> float:
    """Return the seconds that the client gives a call, or `default_s` if it doesn't say."""
    text = request.headers.get(TIMEOUT_HEADER)
    if text is None:
        return default_s
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= max_s:
        raise problems.invalid(TIMEOUT_HEADER, f"must be seconds, above 0 and at most {max_s:g}")
    return seconds
