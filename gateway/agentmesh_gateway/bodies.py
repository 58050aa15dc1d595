"""Reads request bodies within their bounds: whole for JSON, in pieces for raw bytes."""

import asyncio
from collections.abc import AsyncIterator

from starlette.requests import Request

from agentmesh.kit.errors import DeadlineExceeded
from agentmesh_gateway import problems
from agentmesh_gateway.settings import Bounds


def media_type_of(request: Request) -> str:
    """Return the media type of the body in lower case, without parameters; empty if none is said."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_json_body(request: Request, bounds: Bounds) -> bytes:
    """Return the bytes of a body that says it is JSON, or that is empty; raise what becomes 413 or 415."""
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > bounds.max_body_bytes:
        raise _too_large(bounds)
    body = bytearray()
    async for piece in pieces_of(request, bounds):
        body += piece
        if len(body) > bounds.max_body_bytes:
            raise _too_large(bounds)
    media_type = media_type_of(request)
    if media_type != problems.JSON and (body or media_type):
        raise problems.HttpProblem(
            415, f"send the body as JSON, with the header content-type: {problems.JSON}", reason="NOT_JSON"
        )
    return bytes(body)


async def pieces_of(request: Request, bounds: Bounds) -> AsyncIterator[bytes]:
    """Yield the body as it comes; raise DeadlineExceeded when the client stops sending, ClientDisconnect if it left."""
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(bounds.body_timeout_s):
                piece = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise DeadlineExceeded("the rest of the body did not come", reason="BODY_TIMEOUT") from None
        if piece:
            yield piece


def _too_large(bounds: Bounds) -> problems.HttpProblem:
    limit = bounds.max_body_bytes
    # The rest is not read: a connection that still carries it can't be used again.
    return problems.HttpProblem(
        413,
        f"the body is larger than {limit} bytes; send files to /v1/artifacts?name=…",
        reason="BODY_TOO_LARGE",
        headers={"connection": "close"},
    )
