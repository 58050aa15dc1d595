"""Artifacts as plain HTTP: bytes with their type and ranges on the way out, a raw body on the way in."""

import asyncio
import mimetypes
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any
from urllib.parse import quote

import grpc
from google.protobuf.descriptor import MethodDescriptor
from starlette.requests import Request
from starlette.responses import Response

from agentmesh.api.artifact.v1 import artifact_service_pb2 as pb
from agentmesh.kit import telemetry
from agentmesh.kit.errors import Unavailable
from agentmesh_gateway import bodies, problems
from agentmesh_gateway.callers import metadata_of, timeout_of
from agentmesh_gateway.ranges import Unsatisfiable, parse_range
from agentmesh_gateway.settings import Bounds
from agentmesh_gateway.streaming import Streamed
from agentmesh_gateway.transcoding import json_of
from agentmesh_gateway.upstream import Metadata, Upstream

log = telemetry.logger(__name__)

_METHODS = pb.DESCRIPTOR.services_by_name["ArtifactService"].methods_by_name
READ_ARTIFACT: MethodDescriptor = _METHODS["ReadArtifact"]
UPLOAD_ARTIFACT: MethodDescriptor = _METHODS["UploadArtifact"]
_GET_ARTIFACT = _METHODS["GetArtifact"]
_CREATE_ARTIFACT = _METHODS["CreateArtifact"]

_PIECE_BYTES = 256 * 1024
_OCTETS = "application/octet-stream"
_FORM = "application/x-www-form-urlencoded"
_MEDIA_TYPE = re.compile(r"[\w.+-]{1,80}/[\w.+-]{1,80}(?:\s*;\s*[\w.+-]{1,80}=[\w.+-]{1,80})*", re.ASCII)
# Shown in the browser; anything else, and all that can hold a script, is saved.
_INLINE = re.compile(r"image/(png|jpeg|gif|webp)|text/(plain|csv|markdown)|application/json")

_GUARDS = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; sandbox",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "private, no-cache",
}


async def download(request: Request, wanted: pb.ReadArtifactRequest, upstream: Upstream, bounds: Bounds) -> Response:
    """Answer with an artifact's bytes, or the part that the Range header or the query asks for."""
    metadata = metadata_of(request, bounds)
    described = await upstream.unary(
        _GET_ARTIFACT,
        pb.GetArtifactRequest(artifact_id=wanted.artifact_id),
        timeout_s=timeout_of(request, bounds),
        metadata=metadata,
    )
    artifact = described.artifact
    headers = _GUARDS | _description(artifact)
    size, etag = artifact.size_bytes, f'"{artifact.sha256}"'
    start, length, status = 0, size, 200
    if wanted.offset or wanted.limit:
        start, length = _window(wanted, size)
    else:
        headers |= {"accept-ranges": "bytes", **({"etag": etag} if artifact.sha256 else {})}
        if artifact.sha256 and _names(request.headers.get("if-none-match", ""), etag):
            return Response(status_code=304, headers=headers)
        part = _part(request, etag, size)
        if part is not None:
            start, length = part
            status = 206
            headers["content-range"] = f"bytes {start}-{start + length - 1}/{size}"
    headers["content-length"] = str(length)
    if request.method == "HEAD" or length == 0:
        return Response(status_code=status, headers=headers)
    read = pb.ReadArtifactRequest(artifact_id=wanted.artifact_id, offset=start, limit=length)
    return await _streamed(read, upstream, metadata, bounds, status, headers)


async def upload_raw(request: Request, upstream: Upstream, bounds: Bounds) -> Any:
    """Stream the body into a new artifact called `?name=`, holding a piece of it at a time; return JSON values."""
    head = _head(request)
    opened = upstream.streaming(
        _CREATE_ARTIFACT, None, timeout_s=bounds.transfer_timeout_s, metadata=metadata_of(request, bounds)
    )
    async with opened as call:
        try:
            await _send(call, head, _pieces(bodies.pieces_of(request, bounds)))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            log.debug("upload_refused_early")  # the answer, which is there already, says why
        return json_of(await call)


async def _send(call: Any, head: pb.CreateArtifactRequest, pieces: AsyncIterator[bytes]) -> None:
    message = head
    async for piece in pieces:
        message.content = piece
        await call.write(message)
        message = pb.CreateArtifactRequest()
    if message is head:
        await call.write(head)
    await call.done_writing()


async def _streamed(
    read: pb.ReadArtifactRequest,
    upstream: Upstream,
    metadata: Metadata,
    bounds: Bounds,
    status: int,
    headers: Mapping[str, str],
) -> Response:
    pieces = _content(read, upstream, metadata, bounds)
    try:
        # Before the status is sent, so that an artifact that can't be read is an error and not a cut response.
        first = await anext(pieces)
    except BaseException:
        await pieces.aclose()
        raise

    async def all_pieces() -> AsyncGenerator[bytes, None]:
        try:
            yield first
            async for piece in pieces:
                yield piece
        finally:
            await pieces.aclose()

    return Streamed(all_pieces(), status=status, headers=headers)


async def _content(
    read: pb.ReadArtifactRequest, upstream: Upstream, metadata: Metadata, bounds: Bounds
) -> AsyncGenerator[bytes, None]:
    left = read.limit
    opened = upstream.streaming(READ_ARTIFACT, read, timeout_s=bounds.transfer_timeout_s, metadata=metadata)
    async with opened as call:
        async for response in call:
            left -= len(response.content)
            if left < 0:
                break
            yield response.content
    if left != 0:
        raise Unavailable("the artifact's bytes are not what its description says", reason="STREAM_INTERRUPTED")


def _head(request: Request) -> pb.CreateArtifactRequest:
    query = request.query_params.multi_items()
    for name, _ in query:
        if name != "name":
            raise problems.invalid(name, "is not known here; a raw upload takes name only")
    if len(query) != 1 or not query[0][1]:
        raise problems.invalid("name", "is needed, once, in the query of a raw upload: /v1/artifacts?name=data.csv")
    name = query[0][1]
    media_type = bodies.media_type_of(request)
    if media_type.startswith("multipart/"):
        raise problems.HttpProblem(415, "send the file itself as the body, not a form", reason="FORM_NOT_TAKEN")
    if media_type in ("", _FORM):  # what clients say when nobody told them
        media_type = mimetypes.guess_type(name)[0] or _OCTETS
    length = request.headers.get("content-length", "")
    return pb.CreateArtifactRequest(
        name=name, media_type=media_type, size_bytes=int(length) if length.isdecimal() else 0
    )


async def _pieces(source: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    gathered = bytearray()
    async for piece in source:
        gathered += piece
        while len(gathered) >= _PIECE_BYTES:
            yield bytes(gathered[:_PIECE_BYTES])
            del gathered[:_PIECE_BYTES]
    if gathered:
        yield bytes(gathered)


def _window(wanted: pb.ReadArtifactRequest, size: int) -> tuple[int, int]:
    if wanted.offset < 0 or wanted.limit < 0:
        raise problems.invalid("offset" if wanted.offset < 0 else "limit", "must not be negative")
    if wanted.offset > size:
        raise _unsatisfiable(size)
    return wanted.offset, min(wanted.limit or size, size - wanted.offset)


def _part(request: Request, etag: str, size: int) -> tuple[int, int] | None:
    header = request.headers.get("range")
    if header is None or request.headers.get("if-range", etag) != etag:
        return None
    try:
        return parse_range(header, size)
    except Unsatisfiable:
        raise _unsatisfiable(size) from None


def _unsatisfiable(size: int) -> problems.HttpProblem:
    return problems.HttpProblem(
        416,
        f"the artifact ends before that: it has {size} bytes",
        reason="RANGE_NOT_SATISFIABLE",
        headers={"content-range": f"bytes */{size}"},
    )


def _names(if_none_match: str, etag: str) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in tags or tags == ["*"]


def _description(artifact: Any) -> dict[str, str]:
    media_type = artifact.media_type if _MEDIA_TYPE.fullmatch(artifact.media_type) else _OCTETS
    kind = "inline" if _INLINE.fullmatch(media_type.partition(";")[0].strip().lower()) else "attachment"
    # The name is a label that anybody chose: no path and no quote of it may reach the header.
    name = re.sub(r"[\x00-\x1f\x7f/\\]", "_", artifact.name)[:255].lstrip(".") or "artifact"
    plain = re.sub(r"[^A-Za-z0-9 ._()-]", "_", name)
    encoded = quote(name.encode("utf-8", "replace"), safe="")
    return {
        "content-type": media_type,
        "content-disposition": f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{encoded}",
    }
