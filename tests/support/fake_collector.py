"""A collector of spans that speaks OTLP over gRPC, on a free port: `async with FakeCollector() as collector`."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Self

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as rpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span

_WAIT_S = 20.0


class FakeCollector(rpc.TraceServiceServicer):
    """Keeps every span that it is sent; `resources` are the attributes of who sent them, `services` their names."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.services: dict[bytes, str] = {}
        self.resources: list[dict[str, Any]] = []
        self.endpoint = ""
        self._news = asyncio.Condition()

    async def __aenter__(self) -> Self:
        self._server = grpc.aio.server()
        rpc.add_TraceServiceServicer_to_server(self, self._server)
        port = self._server.add_insecure_port("127.0.0.1:0")
        self.endpoint = f"http://127.0.0.1:{port}"
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(0)

    async def Export(self, request: pb.ExportTraceServiceRequest, context: Any) -> pb.ExportTraceServiceResponse:
        """Take spans."""
        for resource in request.resource_spans:
            sender = attributes_of(resource.resource)
            self.resources.append(sender)
            spans = [span for scope in resource.scope_spans for span in scope.spans]
            self.services |= {span.span_id: sender["service.name"] for span in spans}
            self.spans += spans
        async with self._news:
            self._news.notify_all()
        return pb.ExportTraceServiceResponse()

    async def wait_for(self, count: int) -> Sequence[Span]:
        """Return the spans when there are so many; raise TimeoutError."""
        async with asyncio.timeout(_WAIT_S), self._news:
            await self._news.wait_for(lambda: len(self.spans) >= count)
        return self.spans

    async def wait_until(self, holds: Callable[[Sequence[Span]], bool]) -> Sequence[Span]:
        """Return the spans as soon as something holds of them; raise TimeoutError."""
        async with asyncio.timeout(_WAIT_S), self._news:
            await self._news.wait_for(lambda: holds(self.spans))
        return self.spans


def attributes_of(thing: Any) -> dict[str, Any]:
    """Return the attributes of a span or a resource."""
    return {entry.key: _value(entry.value) for entry in thing.attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, kind)
