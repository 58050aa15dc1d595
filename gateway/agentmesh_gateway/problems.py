"""Errors as HTTP says them: a status code, and one shape of body for every refusal."""

import math
from collections.abc import Mapping, Sequence

import grpc
import orjson
from google.protobuf import json_format
from starlette.exceptions import HTTPException
from starlette.responses import Response

from agentmesh.kit import errors

JSON = "application/json"
_RETRY_S = 1.0

# google.rpc.Code says which HTTP status each code maps to.
HTTP_STATUS: Mapping[grpc.StatusCode, int] = {
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNKNOWN: 500,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DATA_LOSS: 500,
    grpc.StatusCode.UNAUTHENTICATED: 401,
}


class HttpProblem(errors.MeshError):
    """HTTP itself was used in a way that can't be served, and has a status of its own for it."""

    code = grpc.StatusCode.INVALID_ARGUMENT

    def __init__(
        self,
        http_status: int,
        message: str,
        *,
        reason: str,
        violations: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, reason=reason, violations=violations)
        self.http_status = http_status
        self.headers = dict(headers or {})


def invalid(field: str, description: str) -> errors.InvalidRequest:
    """Return the error for one wrong field, which the message names too."""
    return errors.InvalidRequest(f"a field is wrong: {field} {description}", violations=[(field, description)])


def http_status(error: errors.MeshError) -> int:
    """Return the status of the response that tells this error."""
    return error.http_status if isinstance(error, HttpProblem) else HTTP_STATUS[error.code]


def body_of(error: errors.MeshError) -> bytes:
    """Write `{"error": google.rpc.Status}` as JSON on one line."""
    return orjson.dumps({"error": json_format.MessageToDict(errors.to_status(error))})


def response_of(error: errors.MeshError) -> Response:
    """Write an error as a response."""
    headers = {"cache-control": "no-store"}
    status = http_status(error)
    retry_after_s = error.retry_after_s
    if retry_after_s is None and status == 503:
        retry_after_s = _RETRY_S
    if retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(retry_after_s)))
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, HttpProblem):
        headers |= error.headers
    return Response(body_of(error), status, headers, media_type=JSON)


def no_such_path() -> errors.NotFound:
    """Return the error for a path that no route has."""
    return errors.NotFound("there is no such path; /openapi.json lists them all", reason="NO_SUCH_PATH")


def wrong_method(allowed: Sequence[str]) -> HttpProblem:
    """Return the error for a path that is there, but not for this method."""
    shown = ", ".join(allowed)
    return HttpProblem(405, f"this path takes {shown} only", reason="METHOD_NOT_ALLOWED", headers={"allow": shown})


def of_exception(error: Exception) -> errors.MeshError:
    """Return what was meant by what Starlette, or a route, has raised."""
    if isinstance(error, errors.MeshError):
        return error
    if isinstance(error, HTTPException) and error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "GET")
        return wrong_method(sorted(allowed.replace(" ", "").split(",")))
    if isinstance(error, HTTPException) and error.status_code == 404:
        return no_such_path()
    status = error.status_code if isinstance(error, HTTPException) else 500
    return HttpProblem(status, "the request can't be served", reason="HTTP_ERROR")
