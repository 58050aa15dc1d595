"""What a caller is told after three real hops: the code, the reason, the details and the id; never the cause."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from agentmesh.api.task.v1 import task_service_pb2 as pb
from agentmesh.api.task.v1 import task_service_pb2_grpc as rpc
from agentmesh.kit import errors, names, rpc_client
from agentmesh.kit.auth import PUBLIC, Keyring
from agentmesh.kit.rpc_server import Call
from tests.support.serving import serving

CANARY = "CANARY-postgres://user:secret@db"
SERVICE = pb.DESCRIPTOR.services_by_name["TaskService"]
ERRORS: list[errors.MeshError] = [
    errors.InvalidRequest("a field is wrong", violations=[("spec.agent", "is needed"), ("spec.prompt", "is needed")]),
    errors.Unauthenticated("who are you"),
    errors.PermissionDenied("not you"),
    errors.NotFound("there is no such task", reason="TASK_NOT_FOUND"),
    errors.AlreadyExists("used before", reason="REQUEST_ID_REUSED"),
    errors.ResourceExhausted("too much", retry_after_s=1.5, quota="tenant:acme"),
    errors.WrongState("it has ended", reason="TASK_ENDED"),
    errors.StaleAttempt("somebody else has it"),
    errors.OutOfRange("pruned", metadata={"oldest_sequence": "17"}),
    errors.Unavailable("away", reason="STORAGE_UNAVAILABLE", retry_after_s=0.2),
    errors.DeadlineExceeded("time is up"),
    errors.Canceled("stopped"),
    errors.Unimplemented("not there"),
    errors.Internal("a bug", metadata={"error_id": "0123456789abcdef"}),
]


class Source:
    """Fails as it is told to."""

    def __init__(self) -> None:
        self.error: Exception = RuntimeError(CANARY)
        self.stops = False

    def __getattr__(self, name: str) -> Any:
        async def unary(request: Any, call: Call) -> Any:
            await self._stop(call)
            raise self.error

        return unary

    async def watch_task(self, request: Any, call: Call) -> AsyncIterator[Any]:
        yield pb.WatchTaskResponse()
        await self._stop(call)
        raise self.error

    async def _stop(self, call: Call) -> None:
        if self.stops:  # what gRPC answers for a server that cancels what it is doing
            await call.context.abort(grpc.StatusCode.CANCELLED, "")

    async def stream_task(self, request: Any, call: Call) -> AsyncIterator[Any]:
        raise self.error
        yield

    async def run_tasks(self, requests: Any, call: Call) -> AsyncIterator[Any]:
        async for _ in requests:
            yield pb.RunTasksResponse()


class Relay(Source):
    """Passes calls on to the next service and lets its errors through."""

    def __init__(self, address: str, stack: AsyncExitStack) -> None:
        channel = rpc_client.open_channel(address)
        stack.push_async_callback(channel.close)
        self._stub: Any = rpc.TaskServiceStub(channel)

    async def get_task(self, request: Any, call: Call) -> Any:
        return await rpc_client.unary(self._stub.GetTask, request, timeout_s=call.remaining_s(10))

    async def cancel_task(self, request: Any, call: Call) -> Any:
        return await self._stub.CancelTask(request, timeout=10)  # the error of grpc.aio, as it is

    async def watch_task(self, request: Any, call: Call) -> AsyncIterator[Any]:
        async with rpc_client.streaming(self._stub.WatchTask, request, timeout_s=10) as onward:
            async for response in onward:
                yield response


class Chain:
    """A client, two relays and a source: three hops."""

    def __init__(self, source: Source, channel: grpc.aio.Channel) -> None:
        self.source = source
        self.channel = channel
        self.stub: Any = rpc.TaskServiceStub(channel)

    async def fails(self, method: str) -> grpc.aio.AioRpcError:
        """Call a method and return the error that the wire brought."""
        request = {"GetTask": pb.GetTaskRequest(), "CancelTask": pb.CancelTaskRequest()}.get(method)
        call = getattr(self.stub, method)(request or pb.WatchTaskRequest(), timeout=10)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await answered(call)
        return raised.value


async def answered(call: Any) -> None:
    """Wait for a call's answer, or for the last of a stream's."""
    if isinstance(call, grpc.aio.UnaryUnaryCall):
        await call
        return
    async for _ in call:
        pass


@pytest.fixture
async def chain() -> AsyncIterator[Chain]:
    keyring = Keyring("a secret for tests")
    source = Source()
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(serving([(SERVICE, source, PUBLIC)], keyring=keyring))
        for _ in range(2):
            relay = Relay(address, stack)
            address = await stack.enter_async_context(serving([(SERVICE, relay, PUBLIC)], keyring=keyring))
        channel = await stack.enter_async_context(rpc_client.open_channel(address))
        yield Chain(source, channel)


def everything_in(error: grpc.aio.AioRpcError) -> str:
    """Return all text that a status carries."""
    trailing = [(k, v if isinstance(v, str) else repr(v)) for k, v in error.trailing_metadata() or ()]
    return f"{error.details()} {error.debug_error_string()} {trailing}"


@pytest.mark.parametrize("method", ["GetTask", "CancelTask", "WatchTask"])
@pytest.mark.parametrize("sent", ERRORS, ids=lambda error: type(error).__name__)
async def test_three_hops_keep_code_reason_and_details(chain: Chain, sent: errors.MeshError, method: str) -> None:
    chain.source.error = sent
    received = await chain.fails(method)
    error = errors.from_rpc_error(received)
    assert (type(error), received.code()) == (type(sent), sent.code)
    assert (error.message, error.reason, error.violations) == (sent.message, sent.reason, sent.violations)
    assert (error.retry_after_s, error.quota) == (sent.retry_after_s, sent.quota)
    assert error.metadata.items() >= sent.metadata.items()
    assert len(error.metadata["error_id"]) == 16
    if sent.retry_after_s is not None:
        assert dict(received.trailing_metadata() or ())[names.RETRY_PUSHBACK] == str(int(sent.retry_after_s * 1000))


@pytest.mark.parametrize("method", ["GetTask", "WatchTask"])
async def test_a_service_that_cancels_its_calls_because_it_stops_is_unavailable(chain: Chain, method: str) -> None:
    chain.source.stops = True
    received = await chain.fails(method)
    assert received.code() is grpc.StatusCode.UNAVAILABLE
    assert received.details() == "the service has stopped"


@pytest.mark.parametrize("method", ["GetTask", "CancelTask", "WatchTask"])
async def test_an_unknown_exception_is_internal_with_the_id_of_the_log_line_and_nothing_else(
    chain: Chain, method: str
) -> None:
    with capture_logs() as logs:
        received = await chain.fails(method)
    error = errors.from_rpc_error(received)
    assert received.code() is grpc.StatusCode.INTERNAL
    assert error.message == "something went wrong inside the mesh"
    logged = [line["error_id"] for line in logs if line["event"] == "unexpected_error"]
    assert logged == [error.metadata["error_id"]]  # logged once, where it happened
    for secret in ("CANARY", "RuntimeError", "Traceback", ".py"):
        assert secret not in everything_in(received)


@pytest.mark.parametrize(
    ("method", "shape"),
    [("GetTask", "unary_unary"), ("WatchTask", "unary_stream"), ("RunTasks", "stream_stream")],
)
async def test_a_malformed_message_is_an_invalid_argument(chain: Chain, method: str, shape: str) -> None:
    call: Any = getattr(chain.channel, shape)(f"/{SERVICE.full_name}/{method}", request_serializer=None)
    garbage = b"\xff\xff\xffCANARY"
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await answered(call(iter([garbage]) if shape == "stream_stream" else garbage, timeout=10))
    error = errors.from_rpc_error(raised.value)
    assert (raised.value.code(), error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE")
    for secret in ("CANARY", "DecodeError", "protobuf"):
        assert secret not in everything_in(raised.value)


async def test_a_service_that_is_not_there_is_unavailable_and_its_address_is_not_told() -> None:
    async with AsyncExitStack() as stack:
        keyring = Keyring("a secret for tests")
        relay = Relay("127.0.0.1:1", stack)
        address = await stack.enter_async_context(serving([(SERVICE, relay, PUBLIC)], keyring=keyring))
        channel = await stack.enter_async_context(rpc_client.open_channel(address))
        stub: Any = rpc.TaskServiceStub(channel)
        for method, request in ((stub.GetTask, pb.GetTaskRequest()), (stub.CancelTask, pb.CancelTaskRequest())):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await method(request, timeout=10)
            assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
            assert raised.value.details() == "the service can't be reached"


async def test_a_method_that_is_not_there_is_unimplemented(chain: Chain) -> None:
    call: Any = chain.channel.unary_unary(f"/{SERVICE.full_name}/Nothing")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call(b"", timeout=10)
    assert isinstance(errors.from_rpc_error(raised.value), errors.Unimplemented)
