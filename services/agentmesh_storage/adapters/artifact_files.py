"""Artifacts' bytes in a folder: written aside, synced, then renamed, so that a name never holds half a file."""

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from agentmesh.kit.errors import NotFound, ResourceExhausted, Unavailable

_PIECE = 256 * 1024


class FolderArtifactFiles:
    """Keeps each artifact as one file, in sub-folders by the end of its id."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    async def write(self, artifact_id: str, content: AsyncIterator[bytes], max_bytes: int) -> tuple[int, str]:
        """See ArtifactFiles; raises ResourceExhausted beyond `max_bytes`."""
        path = self._path(artifact_id)
        part = path.with_suffix(".part")
        digest = hashlib.sha256()
        size = 0
        try:
            await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
            file = await asyncio.to_thread(part.open, "wb")
            try:
                async for piece in content:
                    size += len(piece)
                    if size > max_bytes:
                        raise ResourceExhausted(
                            f"the artifact is larger than {max_bytes} bytes", reason="ARTIFACT_TOO_LARGE"
                        )
                    digest.update(piece)
                    await asyncio.to_thread(file.write, piece)
                await asyncio.to_thread(_finish, file)
            finally:
                file.close()
            await asyncio.to_thread(part.replace, path)
        except OSError as error:
            raise Unavailable("storage can't write the artifact", reason="STORAGE_WRITE_FAILED") from error
        finally:
            with contextlib.suppress(FileNotFoundError):
                part.unlink()
        return size, digest.hexdigest()

    async def read(self, artifact_id: str, offset: int, limit: int | None) -> AsyncIterator[bytes]:
        """See ArtifactFiles."""
        try:
            file = await asyncio.to_thread(self._path(artifact_id).open, "rb")
        except FileNotFoundError as error:
            raise NotFound("there is no such artifact", reason="ARTIFACT_NOT_FOUND") from error
        try:
            file.seek(offset)
            left = limit
            while left is None or left > 0:
                piece = await asyncio.to_thread(file.read, _PIECE if left is None else min(_PIECE, left))
                if not piece:
                    return
                left = None if left is None else left - len(piece)
                yield piece
        finally:
            file.close()

    async def delete(self, artifact_id: str) -> None:
        """See ArtifactFiles."""
        with contextlib.suppress(FileNotFoundError):
            await asyncio.to_thread(self._path(artifact_id).unlink)

    def _path(self, artifact_id: str) -> Path:
        return self._folder / artifact_id[-2:] / artifact_id


def _finish(file: object) -> None:
    file.flush()  # type: ignore[attr-defined]
    os.fsync(file.fileno())  # type: ignore[attr-defined]
