"""Builds gRPC servers: every setting that was measured, and one wrapper round every method.

The wrapper identifies the caller, turns malformed messages and exceptions into statuses, counts and times.
grpc.aio sends the text of an exception to the caller, so nothing but a MeshError may leave a handler.
"""

import inspect
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from agentmesh.kit import errors, names, telemetry, trace_context
from agentmesh.kit.auth import Access, Authenticator, Identity, scope_of
from agentmesh.kit.certificates import CertificateFiles
from agentmesh.kit.grpc_poller import calm_poller
from agentmesh.kit.rpc_client import meant
from agentmesh.kit.rpc_spans import RpcSpans
from agentmesh.kit.tracing import OpenSpan, Tracer

log = telemetry.logger(__name__)

# Measured with grpcio 1.85 on Python 3.11; docs/adr/0006 says what each one is for.
SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", 8_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 4_000),
    ("grpc.max_concurrent_streams", 100),
    ("grpc.server_handshake_timeout_ms", 3_000),
    ("grpc.max_receive_message_length", names.MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", names.MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", names.MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", 2 * names.MAX_METADATA_BYTES),
    ("grpc.http2.bdp_probe", 0),
    # Two services on one port would share its calls between them without a word.
    ("grpc.so_reuseport", 0),
)


class PortInUse(errors.MeshError):
    """The address can't be listened on."""


@dataclass(slots=True)
class Call:
    """What a handler may know of its call."""

    context: "grpc.aio.ServicerContext[Any, Any]"
    identity: Identity
    received_traceparent: str | None
    span: OpenSpan | None = None
    """Where the call's trace is recorded."""
    _traceparent: str = ""

    @property
    def traceparent(self) -> str:
        """Return the trace context of what is done for the call: in its caller's trace, or in a new one."""
        if not self._traceparent:
            self._traceparent = (
                self.span.context if self.span else trace_context.traceparent_or_new(self.received_traceparent)
            )
        return self._traceparent

    def link(self, traceparent: str) -> None:
        """Note that the call has to do with work of another trace."""
        if self.span is not None and traceparent:
            self.span.links.append(traceparent)

    @property
    def tenant(self) -> str:
        """Return the caller's tenant."""
        return self.identity.tenant

    def remaining_s(self, at_most: float) -> float:
        """Return the seconds that are left of the caller's deadline, bounded."""
        left = self.context.time_remaining()
        return at_most if left is None else max(0.0, min(left, at_most))


@dataclass(frozen=True)
class Tls:
    """PEM files of a server; with `ca`, clients must show a certificate it signed."""

    cert: Path
    key: Path
    ca: Path | None = None


def build_server(
    authenticator: Authenticator,
    services: Iterable[tuple[ServiceDescriptor, object, Access]],
    tracer: Tracer | None = None,
) -> grpc.aio.Server:
    """Build a server. Each implementation has a snake_case method for each method of its service.

    A method takes (request or async iterator of requests, Call) and returns a response or, for streams, is an
    async generator of them. A response may be `bytes`: it is sent as it is. Calls of traces that `tracer` records are
    spans; only those of clients begin a trace.
    """
    server = grpc.aio.server(options=SERVER_OPTIONS)
    calm_poller()
    for descriptor, implementation, access in services:
        handlers = {}
        for method in descriptor.methods:
            function = getattr(implementation, _snake(method.name))
            handlers[method.name] = _handler(method, function, access, authenticator, tracer)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(descriptor.full_name, handlers),))
    return server


def listen(server: grpc.aio.Server, address: str, tls: Tls | None = None) -> int:
    """Bind a server to host:port and return the port; raise PortInUse if it is taken."""
    try:
        if tls is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, _credentials(tls))
    except RuntimeError as error:
        raise PortInUse(
            f"can't listen on {address}: is the port in use? Stop what uses it or choose another port",
            reason="PORT_IN_USE",
        ) from error


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    """Return credentials that follow their files; gRPC asks for news at each handshake."""
    files = CertificateFiles(tls.cert, tls.key, tls.ca)

    def read() -> Any:
        pair = (tls.key.read_bytes(), tls.cert.read_bytes())
        return grpc.ssl_server_certificate_configuration([pair], tls.ca.read_bytes() if tls.ca else None)

    def news() -> Any:
        return read() if files.changed() else None

    return grpc.dynamic_ssl_server_credentials(read(), news, require_client_authentication=tls.ca is not None)


class _Malformed:
    """Stands for a message that can't be parsed."""


_MALFORMED = _Malformed()


def _handler(
    method: MethodDescriptor,
    function: Callable[..., Any],
    access: Access,
    authenticator: Authenticator,
    tracer: Tracer | None,
) -> "grpc.RpcMethodHandler[Any, Any]":
    request_class = GetMessageClass(method.input_type)
    wrapper = _Wrapper(method, function, access, authenticator, tracer)
    codec = {"request_deserializer": _deserializer(request_class), "response_serializer": _serialize}
    if method.server_streaming:
        if not inspect.isasyncgenfunction(function):
            raise TypeError(f"{method.full_name} must be an async generator")
        if method.client_streaming:
            return grpc.stream_stream_rpc_method_handler(wrapper.stream, **codec)
        return grpc.unary_stream_rpc_method_handler(wrapper.stream, **codec)
    if method.client_streaming:
        return grpc.stream_unary_rpc_method_handler(wrapper.answer, **codec)
    return grpc.unary_unary_rpc_method_handler(wrapper.answer, **codec)


class _Wrapper:
    """What happens round one method; as little as can be, since it does at every call of the mesh."""

    def __init__(
        self,
        method: MethodDescriptor,
        function: Callable[..., Any],
        access: Access,
        authenticator: Authenticator,
        tracer: Tracer | None,
    ) -> None:
        self._function = function
        self._take = _whole_each if method.client_streaming else _whole
        self._access = access
        self._scope = scope_of(method.name)
        self._authenticator = authenticator
        self._name = method.full_name
        service = method.containing_service.full_name
        self._ok = telemetry.rpc_total.labels(service, method.name, "OK")
        self._labels = (service, method.name)
        self._duration = telemetry.rpc_duration.labels(service, method.name)
        path = f"{service}/{method.name}"
        self._spans = RpcSpans(tracer, path, begins=access.public) if tracer is not None else None

    def _enter(self, context: Any) -> Call:
        # Only names that end in -bin have values that aren't text, and none of those is looked at.
        metadata = dict(context.invocation_metadata() or ())
        identity = self._authenticator.identify(metadata, self._access)
        if self._access.public:
            identity.check(self._scope)
        call = Call(context, identity, metadata.get(names.TRACEPARENT))
        if self._spans is not None:
            call.span = self._spans.begin(call.received_traceparent)
        return call

    def _leave(self, call: Call | None, started: float) -> None:
        self._duration.observe(time.perf_counter() - started)
        if self._spans is not None and call is not None and call.span is not None:
            self._spans.end(call.span, call.identity)

    async def answer(self, sent: Any, context: Any) -> Any:
        started = time.perf_counter()
        call = None
        try:
            call = self._enter(context)
            response = await self._function(self._take(sent), call)
        except Exception as error:  # noqa: BLE001 - the one place where exceptions become statuses
            await self._refuse(context, error, call)
        else:
            self._answered(call)
            return response
        finally:
            self._leave(call, started)

    async def stream(self, sent: Any, context: Any) -> AsyncIterator[Any]:
        started = time.perf_counter()
        stream = call = None
        try:
            call = self._enter(context)
            stream = self._function(self._take(sent), call)
            async for response in stream:
                yield response
            self._answered(call)
        except Exception as error:  # noqa: BLE001 - as above
            await self._refuse(context, error, call)
        finally:
            if stream is not None:
                await stream.aclose()
            self._leave(call, started)

    def _answered(self, call: Call) -> None:
        self._ok.inc()
        if call.span is not None:
            call.span.code = "OK"

    async def _refuse(self, context: Any, error: Exception, call: Call | None) -> None:
        if isinstance(error, grpc.aio.AbortError):
            raise error
        if isinstance(error, grpc.aio.AioRpcError):
            error = meant(error)
        elif isinstance(error, TimeoutError):
            error = errors.DeadlineExceeded("time is up")
        if not isinstance(error, errors.MeshError):
            error_id = errors.new_error_id()
            log.error("unexpected_error", method=self._name, error_id=error_id, exc_info=error)
            error = errors.Internal("something went wrong inside the mesh", metadata={"error_id": error_id})
        telemetry.rpc_total.labels(*self._labels, error.code.name).inc()
        if call is not None and call.span is not None:
            call.span.code, call.span.reason = error.code.name, error.reason
        status = errors.to_status(error)
        trailing: list[tuple[str, str | bytes]] = [(names.STATUS_DETAILS, status.SerializeToString())]
        if error.retry_after_s is not None:
            trailing.append((names.RETRY_PUSHBACK, str(int(error.retry_after_s * 1000))))
        await context.abort(error.code, error.message, tuple(trailing))


def _whole(request: Any) -> Any:
    if request is _MALFORMED:
        raise errors.InvalidRequest("the message can't be parsed: is it of the right type?", reason="MALFORMED_MESSAGE")
    return request


async def _whole_each(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _whole(request)


def _deserializer(message: type[Message]) -> Callable[[bytes], Any]:
    parse = message.FromString

    def deserialize(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError:
            return _MALFORMED

    return deserialize


def _serialize(response: Any) -> Any:
    return response if type(response) is bytes else response.SerializeToString()


def _snake(name: str) -> str:
    return "".join("_" + c.lower() if c.isupper() else c for c in name).lstrip("_")
