"""Moves artifacts: small ones in one message, larger ones as streams, checked by their digest."""

import asyncio
import hashlib
import mimetypes
import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

from agentmesh.api.artifact.v1 import artifact_service_pb2 as pb
from agentmesh.api.types.v1 import types_pb2
from agentmesh.client.calls import Caller
from agentmesh.client.repeating import is_worth_repeating
from agentmesh.kit.errors import Internal, MeshError

_SMALL_BYTES = 3 * 1024 * 1024
_PIECE_BYTES = 512 * 1024
_DEFAULT_TYPE = "application/octet-stream"


async def upload(
    caller: Caller, source: str | os.PathLike[str] | bytes, *, name: str | None, media_type: str | None
) -> types_pb2.Artifact:
    """Store bytes, or the file at a path. Repeated as a whole if the connection breaks; leftovers are collected."""
    if isinstance(source, bytes):
        name, size = name or "upload", len(source)
    else:
        source = Path(source)
        name, size = name or source.name, (await asyncio.to_thread(source.stat)).st_size
    media_type = media_type or mimetypes.guess_type(name)[0] or _DEFAULT_TYPE
    if size <= _SMALL_BYTES:
        content = source if isinstance(source, bytes) else await asyncio.to_thread(source.read_bytes)
        # A file may have grown since it was measured.
        if len(content) <= _SMALL_BYTES:
            request = pb.UploadArtifactRequest(name=name, media_type=media_type, content=content)
            small: types_pb2.Artifact = (await caller.unary("artifacts", "UploadArtifact", request)).artifact
            return small
    backoff = caller.backoff()
    while True:
        try:
            async with caller.opened("artifacts", "CreateArtifact") as create:
                pieces = _pieces(source, name, media_type)
                artifact: types_pb2.Artifact = (await create(pieces, metadata=caller.metadata)).artifact
            caller.heard()
            return artifact
        except MeshError as error:
            if not is_worth_repeating(error):
                raise
            await backoff.wait(error)


async def read(caller: Caller, artifact_id: str, offset: int = 0) -> AsyncGenerator[bytes, None]:
    """Yield an artifact's bytes from an offset to the end, over any number of broken calls."""
    backoff = caller.backoff()
    while True:
        request = pb.ReadArtifactRequest(artifact_id=artifact_id, offset=offset)
        try:
            async with caller.streaming("artifacts", "ReadArtifact", request) as call:
                async for response in call:
                    if response.content:
                        offset += len(response.content)
                        backoff.progress()
                        caller.heard()
                        yield response.content
                return
        except MeshError as error:
            if not is_worth_repeating(error):
                raise
            await backoff.wait(error)


async def download(caller: Caller, artifact_id: str, to: Path) -> Path:
    """Write an artifact to a file that must not exist yet; nothing is left behind when it fails.

    Raises FileExistsError, NotFound, or Internal if the bytes aren't those that were stored.
    """
    described = await caller.unary("artifacts", "GetArtifact", pb.GetArtifactRequest(artifact_id=artifact_id))
    handle, temporary = await asyncio.to_thread(tempfile.mkstemp, dir=to.parent, prefix=".download-")
    try:
        digest = hashlib.sha256()
        with os.fdopen(handle, "wb") as file:
            async with aclosing(read(caller, artifact_id)) as pieces:
                async for piece in pieces:
                    digest.update(piece)
                    await asyncio.to_thread(file.write, piece)
        if described.artifact.sha256 and digest.hexdigest() != described.artifact.sha256:
            raise Internal("the artifact's bytes are not those that were stored", reason="DIGEST_MISMATCH")
        await asyncio.to_thread(_publish, temporary, to)
    finally:
        _discard(Path(temporary))
    return to


def _publish(temporary: str, to: Path) -> None:
    """Give a finished file its name, in one step and never in place of another."""
    try:
        os.link(temporary, to)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        with to.open("xb") as target, open(temporary, "rb") as source:
            while block := source.read(_PIECE_BYTES):
                target.write(block)
        return
    # mkstemp makes files that only their owner may read; this one gets what any new file gets.
    mask = os.umask(0)
    os.umask(mask)
    to.chmod(0o666 & ~mask)


def _discard(temporary: Path) -> None:
    temporary.unlink(missing_ok=True)


async def _pieces(source: Path | bytes, name: str, media_type: str) -> AsyncIterator[pb.CreateArtifactRequest]:
    size = len(source) if isinstance(source, bytes) else (await asyncio.to_thread(source.stat)).st_size
    yield pb.CreateArtifactRequest(name=name, media_type=media_type, size_bytes=size)
    if isinstance(source, bytes):
        for piece in _cut(source):
            yield pb.CreateArtifactRequest(content=piece)
        return
    with await asyncio.to_thread(source.open, "rb") as file:
        while content := await asyncio.to_thread(file.read, _PIECE_BYTES):
            yield pb.CreateArtifactRequest(content=content)


def _cut(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), _PIECE_BYTES):
        yield data[start : start + _PIECE_BYTES]
