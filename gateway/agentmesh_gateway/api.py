"""Turns one HTTP request into one call of the contract, and the answer back."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from agentmesh_gateway import artifacts, bodies, problems, sse
from agentmesh_gateway.callers import metadata_of, timeout_of
from agentmesh_gateway.routes import Route, RouteTable
from agentmesh_gateway.settings import Bounds
from agentmesh_gateway.task_events import STREAM_TASK, WATCH_TASK, TaskEvents
from agentmesh_gateway.transcoding import json_of, request_of
from agentmesh_gateway.upstream import Upstream

ROUTE_KEY = "agentmesh.route"
"""Where the scope of a request keeps the template of its path, for metrics."""


class Api:
    """The ASGI application behind every path of the contract; raises MeshErrors until it has begun to answer.

    A streaming method that it knows no form for is refused at start, so that none is served by guesswork.
    """

    def __init__(self, table: RouteTable, upstream: Upstream, bounds: Bounds, draining: asyncio.Event) -> None:
        self._table = table
        self._upstream = upstream
        self._bounds = bounds
        self._draining = draining
        streams: dict[str, Callable[[Request, Any], Awaitable[Response]]] = {
            STREAM_TASK.full_name: self._stream_task,
            WATCH_TASK.full_name: self._watch_task,
            artifacts.READ_ARTIFACT.full_name: self._read_artifact,
        }
        self._streams = streams
        for route in table.routes:
            if route.method.client_streaming or (
                route.method.server_streaming and route.method.full_name not in streams
            ):
                raise ValueError(f"{route.method.full_name} is a stream that has no form over HTTP yet")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        raw_path = scope.get("raw_path") or scope["path"].encode()
        route, path = self._table.find(request.method, raw_path.decode("ascii", "replace"))
        scope[ROUTE_KEY] = route.template.text
        response = await self._answer(request, route, path)
        await response(scope, receive, send)

    async def _answer(self, request: Request, route: Route, path: dict[str, str]) -> Response:
        if route.method is artifacts.UPLOAD_ARTIFACT and _is_raw(request):
            return _json(await artifacts.upload_raw(request, self._upstream, self._bounds))
        body = await bodies.read_json_body(request, self._bounds) if route.body else b""
        query = request.query_params.multi_items()
        message = request_of(route, path, query, body, max_depth=self._bounds.max_json_depth)
        stream = self._streams.get(route.method.full_name)
        if stream is not None:
            return await stream(request, message)
        answer = await self._upstream.unary(
            route.method,
            message,
            timeout_s=timeout_of(request, self._bounds),
            metadata=metadata_of(request, self._bounds),
        )
        return _json(json_of(answer, route.response_body))

    async def _stream_task(self, request: Request, message: Any) -> Response:
        after = sse.last_event_id(request)
        if after is not None and not message.request_id:
            raise problems.invalid("requestId", "is needed with Last-Event-ID: it says which task to go on with")
        events = TaskEvents(self._upstream, metadata_of(request, self._bounds), self._bounds, STREAM_TASK, message)
        if after is not None:
            await events.resume_after(after)
        return await sse.respond(events, sse.form_for(request), self._bounds, self._draining)

    async def _watch_task(self, request: Request, message: Any) -> Response:
        if request.method == "HEAD":
            raise problems.wrong_method(["GET"])
        after = sse.last_event_id(request)
        if after is not None:
            # A browser that reconnects repeats the address, so the header is the newer of the two.
            message.after_sequence = after
        events = TaskEvents(self._upstream, metadata_of(request, self._bounds), self._bounds, WATCH_TASK, message)
        return await sse.respond(events, sse.form_for(request), self._bounds, self._draining)

    async def _read_artifact(self, request: Request, message: Any) -> Response:
        return await artifacts.download(request, message, self._upstream, self._bounds)


def _is_raw(request: Request) -> bool:
    return "name" in request.query_params or bodies.media_type_of(request) not in ("", problems.JSON)


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type=problems.JSON, headers={"cache-control": "no-store"})
