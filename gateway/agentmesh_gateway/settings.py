"""Every bound of the gateway in one place."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one request, one stream or one connection may use; seconds and bytes."""

    max_body_bytes: int = 4 * 1024 * 1024
    """Of a JSON body; raw uploads are streamed and bounded by storage."""
    max_json_depth: int = 64
    max_target_bytes: int = 8 * 1024
    """Of path and query."""
    max_header_bytes: int = 16 * 1024
    max_headers: int = 100
    max_authorization_bytes: int = 4 * 1024
    """The router takes 8 KiB of metadata in all."""
    header_timeout_s: float = 10.0
    """From the first byte of a request, or of a connection, to the end of its headers."""
    body_timeout_s: float = 30.0
    """The longest silence of a client that still owes a part of its body."""
    linger_s: float = 1.0
    """How long a gateway that stops leaves idle connections open, for requests that are on their way."""
    default_timeout_s: float = 30.0
    max_timeout_s: float = 300.0
    transfer_timeout_s: float = 3600.0
    heartbeat_s: float = 15.0
    """A stream that is silent for so long says that it is alive."""
    first_event_s: float = 1.0
    """How long a stream waits for an answer that could still become an HTTP error."""
    answer_timeout_s: float = 600.0
    """Of a model's whole answer."""
    answer_stream_timeout_s: float = 3600.0
    first_delta_s: float = 10.0
    """How long a model's stream waits for a first piece, so that a refusal by its provider has a status of its own."""
    resume_attempts: int = 12
    """Failures in a row, without an event between, after which a stream gives up."""
    resume_backoff_s: float = 0.1
    resume_max_backoff_s: float = 2.0
    max_channels: int = 64
    """Connections to the routers, and as many to the llm-proxies, each for 80 calls at a time."""
    health_timeout_s: float = 2.0
    health_cache_s: float = 1.0
