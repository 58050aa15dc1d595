"""What the gateway counts: requests by route, open streams, and how often a stream was resumed for its reader."""

from typing import Final

from agentmesh.kit import telemetry

REQUESTS_TOTAL: Final = "agentmesh_gateway_requests_total"
REQUEST_DURATION: Final = "agentmesh_gateway_request_duration_seconds"
OPEN_STREAMS: Final = "agentmesh_gateway_open_streams"
STREAM_RESUMES_TOTAL: Final = "agentmesh_gateway_stream_resumes_total"

requests_total = telemetry.counter(REQUESTS_TOTAL, "Requests that the gateway answered", ("route", "method", "status"))
request_duration = telemetry.histogram(REQUEST_DURATION, "How long requests took", ("route", "method"))
open_streams = telemetry.gauge(OPEN_STREAMS, "Event streams that are open")
stream_resumes_total = telemetry.counter(STREAM_RESUMES_TOTAL, "Times that a broken stream was resumed from the router")

UNMATCHED: Final = "unmatched"
