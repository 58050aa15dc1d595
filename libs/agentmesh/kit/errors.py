"""One tree of errors, and the one place where it meets gRPC's statuses."""

import os
from collections.abc import Mapping, Sequence
from typing import ClassVar

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from agentmesh.kit import names


class MeshError(Exception):
    """Something went wrong in a way that a caller may be told.

    `message` is a fixed text: no prompt, key, path, SQL or class name. `reason` is UPPER_SNAKE and stable.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    default_reason: ClassVar[str] = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        violations: Sequence[tuple[str, str]] = (),
        retry_after_s: float | None = None,
        quota: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.violations = tuple(violations)
        self.retry_after_s = retry_after_s
        self.quota = quota
        self.metadata = dict(metadata or {})
        self.status: status_pb2.Status | None = None
        """What `to_status` wrote, if it is kept because the error is said very often."""


class InvalidRequest(MeshError):
    """A field is missing, malformed or out of range."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    default_reason = "INVALID_REQUEST"


class Unsupported(InvalidRequest):
    """What was asked is well-formed, but can't be done here. Whoever hears of it from afar hears InvalidRequest."""


class Unauthenticated(MeshError):
    """No credential, or a bad one."""

    code = grpc.StatusCode.UNAUTHENTICATED
    default_reason = "UNAUTHENTICATED"


class PermissionDenied(MeshError):
    """The credential is good, but not for this."""

    code = grpc.StatusCode.PERMISSION_DENIED
    default_reason = "PERMISSION_DENIED"


class NotFound(MeshError):
    """There is no such thing, or it is another tenant's."""

    code = grpc.StatusCode.NOT_FOUND
    default_reason = "NOT_FOUND"


class AlreadyExists(MeshError):
    """The id is taken by something else."""

    code = grpc.StatusCode.ALREADY_EXISTS
    default_reason = "ALREADY_EXISTS"


class ResourceExhausted(MeshError):
    """A bound is reached; it may be free again later."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    default_reason = "RESOURCE_EXHAUSTED"


class WrongState(MeshError):
    """The thing exists, but not in a state where this can be done."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    default_reason = "WRONG_STATE"


class StaleAttempt(WrongState):
    """Another attempt has the task, or it has ended."""

    code = grpc.StatusCode.ABORTED
    default_reason = "STALE_ATTEMPT"


class OutOfRange(MeshError):
    """The history asked for is gone, or not there yet."""

    code = grpc.StatusCode.OUT_OF_RANGE
    default_reason = "OUT_OF_RANGE"


class Unavailable(MeshError):
    """Something that is needed does not answer; trying again may help."""

    code = grpc.StatusCode.UNAVAILABLE
    default_reason = "UNAVAILABLE"


class Unreachable(Unavailable):
    """Nobody answered: the connection could not be made, or broke. Whoever hears of it hears Unavailable."""


class Overloaded(Unavailable):
    """It has more to do than it can. Whoever hears of it from afar hears Unavailable."""


class DeadlineExceeded(MeshError):
    """Time is up."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    default_reason = "DEADLINE_EXCEEDED"


class Canceled(MeshError):
    """Somebody asked for it to stop."""

    code = grpc.StatusCode.CANCELLED
    default_reason = "CANCELED"


class Unimplemented(MeshError):
    """The method is not there."""

    code = grpc.StatusCode.UNIMPLEMENTED
    default_reason = "UNIMPLEMENTED"


class Internal(MeshError):
    """A bug of ours; the log says more under the error id."""


# A status travels in metadata, which is bounded at 8 KiB: whoever sends much that is wrong must still get an answer.
_MAX_VIOLATIONS = 16
_MAX_TEXT = 200

_BY_CODE: dict[int, type[MeshError]] = {
    int(kind.code.value[0]): kind
    for kind in (
        InvalidRequest,
        Unauthenticated,
        PermissionDenied,
        NotFound,
        AlreadyExists,
        ResourceExhausted,
        WrongState,
        StaleAttempt,
        OutOfRange,
        Unavailable,
        DeadlineExceeded,
        Canceled,
        Unimplemented,
        Internal,
    )
}


def new_error_id() -> str:
    """Make an id that ties an answer to a line in the log."""
    return os.urandom(8).hex()


def to_status(error: MeshError) -> status_pb2.Status:
    """Write an error as google.rpc.Status with ErrorInfo and what else it carries."""
    if error.status is not None:
        return error.status
    status = status_pb2.Status(code=int(error.code.value[0]), message=error.message)
    metadata = {"error_id": new_error_id(), **error.metadata}
    _pack(status, error_details_pb2.ErrorInfo(reason=error.reason, domain=names.ERROR_DOMAIN, metadata=metadata))
    if error.violations:
        bad = error_details_pb2.BadRequest()
        for field, description in error.violations[:_MAX_VIOLATIONS]:
            bad.field_violations.add(field=field[:_MAX_TEXT], description=description[:_MAX_TEXT])
        _pack(status, bad)
    if error.retry_after_s is not None:
        info = error_details_pb2.RetryInfo()
        info.retry_delay.FromMilliseconds(int(error.retry_after_s * 1000))
        _pack(status, info)
    if error.quota:
        failure = error_details_pb2.QuotaFailure()
        failure.violations.add(subject=error.quota, description=error.message)
        _pack(status, failure)
    return status


def from_status(status: status_pb2.Status) -> MeshError:
    """Read an error back; what `to_status` wrote comes back equal, error id included."""
    info = error_details_pb2.ErrorInfo()
    bad = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    quota = error_details_pb2.QuotaFailure()
    retry_after_s: float | None = None
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            detail.Unpack(bad)
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            detail.Unpack(retry)
            retry_after_s = retry.retry_delay.ToMilliseconds() / 1000
        elif detail.Is(error_details_pb2.QuotaFailure.DESCRIPTOR):
            detail.Unpack(quota)
    kind = _BY_CODE.get(status.code, Internal)
    return kind(
        status.message,
        reason=info.reason,
        violations=[(v.field, v.description) for v in bad.field_violations],
        retry_after_s=retry_after_s,
        quota=quota.violations[0].subject if quota.violations else "",
        metadata=dict(info.metadata),
    )


def from_rpc_error(error: grpc.aio.AioRpcError) -> MeshError:
    """Turn what a gRPC call raised into the error that the peer meant."""
    for key, value in error.trailing_metadata() or ():
        if key == names.STATUS_DETAILS:
            status = status_pb2.Status()
            status.ParseFromString(value if isinstance(value, bytes) else value.encode())
            return from_status(status)
    kind = _BY_CODE.get(int(error.code().value[0]), Internal)
    if kind is Unavailable:
        kind = Unreachable
    return kind(_PLAIN_TEXT.get(error.code(), "the service failed"), reason=_PLAIN_REASON.get(error.code(), ""))


# A status that carries no details comes from gRPC itself; its text may name addresses, so ours is said.
_PLAIN_TEXT = {
    grpc.StatusCode.UNAVAILABLE: "the service can't be reached",
    grpc.StatusCode.DEADLINE_EXCEEDED: "time is up",
    grpc.StatusCode.CANCELLED: "the call was canceled",
    grpc.StatusCode.UNIMPLEMENTED: "the service has no such method",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "a message is larger than the limit of 4 MiB",
}
_PLAIN_REASON = {grpc.StatusCode.RESOURCE_EXHAUSTED: "MESSAGE_TOO_LARGE"}


def _pack(status: status_pb2.Status, detail: object) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)  # type: ignore[arg-type]
    status.details.append(packed)
