"""The errors that every provider's adapter raises; their texts hold nothing that anybody said."""

from collections.abc import Callable
from typing import Any

from agentmesh.kit.errors import (
    InvalidRequest,
    MeshError,
    NotFound,
    Overloaded,
    ResourceExhausted,
    Unavailable,
    Unsupported,
    WrongState,
)

DEFAULT_RETRY_AFTER_S = 1.0
# Statuses of the 4xx that tell of the moment, not of the request.
_REFUSED = "PROVIDER_REFUSED"
_PASSING = (408, 409, 425)
_SAY_WHY = (400, 413, 422)
_OVERLOADED = (503, 529)
_TOO_LARGE = 413
_NOT_A_SCHEMA = "is no JSON Schema that the provider takes"


def unreachable() -> MeshError:
    """Make the error for a server that takes no connection."""
    return Unavailable("the provider can't be reached", reason="PROVIDER_UNREACHABLE", retry_after_s=1)


def stalled() -> MeshError:
    """Make the error for a server that says nothing for too long."""
    return Overloaded("the provider fell silent", reason="PROVIDER_STALLED", retry_after_s=1)


def interrupted() -> MeshError:
    """Make the error for an answer that broke off."""
    return Unavailable("the provider's answer broke off", reason="STREAM_INTERRUPTED", retry_after_s=1)


def garbage() -> MeshError:
    """Make the error for an answer that is none."""
    return Unavailable("the provider's answer can't be understood", reason="PROVIDER_GARBAGE", retry_after_s=1)


def failed_midway() -> MeshError:
    """Make the error for a failure that the provider reports inside a stream."""
    return Unavailable("the provider failed in mid-answer", reason="PROVIDER_FAILED", retry_after_s=1)


def overloaded_midway() -> MeshError:
    """Make the error for an overload that the provider reports inside a stream."""
    return Overloaded("the provider failed in mid-answer", reason="PROVIDER_FAILED", retry_after_s=1)


def context_length() -> MeshError:
    """Make the error for a conversation that is too long for the model."""
    return InvalidRequest("the conversation is too long for the model", reason="CONTEXT_LENGTH")


def credential() -> MeshError:
    """Make the error for a key that is wrong or may not do this; only the operator can help."""
    return WrongState("the provider refuses the configured credential", reason="PROVIDER_CREDENTIAL")


def no_such_model() -> MeshError:
    """Make the error for a model that the provider doesn't know."""
    return NotFound("the provider doesn't have this model", reason="MODEL_NOT_FOUND")


def rate_limited(retry_after_s: float = DEFAULT_RETRY_AFTER_S) -> MeshError:
    """Make the error for a rate limit of the provider's."""
    return ResourceExhausted(
        "the provider's rate limit is reached", reason="PROVIDER_RATE_LIMITED", retry_after_s=retry_after_s
    )


def refused(field: str = "") -> MeshError:
    """Make the error for a request that the provider finds wrong; `field` is ours that it doesn't like, if it says."""
    violations = [(field, "the model doesn't take this")] if field else []
    return InvalidRequest("the provider refuses the request", reason=_REFUSED, violations=violations)


def filtered() -> MeshError:
    """Make the error for a conversation that the provider's filter doesn't let through."""
    return InvalidRequest("the provider's filter refuses the conversation", reason="CONTENT_FILTER")


def request_too_large() -> MeshError:
    """Make the error for a request of more bytes than the provider takes."""
    return InvalidRequest("the request has more bytes than the provider takes", reason="REQUEST_TOO_LARGE")


def media_too_large() -> MeshError:
    """Make the error for an image or a file that is larger than the model takes."""
    text = "an image or a file is larger than the model takes"
    return InvalidRequest(text, reason="MEDIA_TOO_LARGE", violations=[("messages", text)])


def media_refused() -> MeshError:
    """Make the error for an image that the provider can't read."""
    text = "the provider can't read an image"
    return InvalidRequest(text, reason="UNSUPPORTED_PART", violations=[("messages", text)])


def schema(field: str) -> MeshError:
    """Make the error for a JSON Schema that the provider finds wrong: a tool's, or that of the answer."""
    reason = "INVALID_TOOL_SCHEMA" if field.startswith("tools") else "INVALID_RESPONSE_SCHEMA"
    return InvalidRequest("the provider doesn't take a schema", reason=reason, violations=[(field, _NOT_A_SCHEMA)])


def not_here(field: str, text: str) -> MeshError:
    """Make the error for something that this provider has no form for; `text` says so, `field` is ours."""
    return Unsupported(text, reason="UNSUPPORTED_FIELD", violations=[(field, text)])


def unsupported_part(text: str) -> MeshError:
    """Make the error for a part of a message that the provider has no form for."""
    return Unsupported(text, reason="UNSUPPORTED_PART", violations=[("messages", text)])


def holds_its_error(status: int) -> bool:
    """Return whether an answer of this status is read for more than its status."""
    return status in _SAY_WHY


def of_status(status: int, error: Any, retry_after_s: float, refusal_of: Callable[[Any], MeshError]) -> MeshError:
    """Return what an answer other than 200 means.

    `error` is the error object of its body, where there is one, and `refusal_of` knows what it says of a request.
    """
    if status in (401, 403):
        return credential()
    if status == 404:
        return no_such_model()
    if status == 429:
        return rate_limited(retry_after_s)
    if 400 <= status < 500 and status not in _PASSING:
        refusal = refusal_of(error) if status in _SAY_WHY else refused()
        unexplained = status == _TOO_LARGE and refusal.reason == _REFUSED
        return request_too_large() if unexplained else refusal
    kind = Overloaded if status in _OVERLOADED else Unavailable
    return kind("the provider failed", reason="PROVIDER_FAILED", retry_after_s=retry_after_s)
