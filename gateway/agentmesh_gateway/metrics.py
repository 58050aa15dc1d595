"""What the gateway counts: requests by route, open streams, and how often a stream was resumed for its reader."""

from typing import Final

from agentmesh.kit import names, telemetry

requests_total = telemetry.counter(
    names.GATEWAY_REQUESTS_TOTAL, "Requests that the gateway answered", ("route", "method", "status")
)
request_duration = telemetry.histogram(names.GATEWAY_REQUEST_DURATION, "How long requests took", ("route", "method"))
open_streams = telemetry.gauge(names.GATEWAY_OPEN_STREAMS, "Event streams that are open")
stream_resumes_total = telemetry.counter(
    names.GATEWAY_STREAM_RESUMES_TOTAL, "Times that a broken stream was resumed from the router"
)

UNMATCHED: Final = "unmatched"
