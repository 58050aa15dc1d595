"""Artifacts' bytes in PostgreSQL, in pieces, so that every storage process can read what another one wrote."""

import hashlib
from collections.abc import AsyncIterator

from agentmesh.kit.errors import NotFound, ResourceExhausted
from agentmesh_storage.adapters.postgres.pool import Pool

_PIECE = 256 * 1024
_ADD = "INSERT INTO artifact_pieces (artifact_id, start, content) VALUES ($1, $2, $3)"
_FORGET = "DELETE FROM artifact_pieces WHERE artifact_id = $1"
_READ = """
SELECT start, content FROM artifact_pieces WHERE artifact_id = $1 AND start >= coalesce(
  (SELECT max(start) FROM artifact_pieces WHERE artifact_id = $1 AND start <= $2), 0) ORDER BY start LIMIT 1"""


class PostgresArtifactFiles:
    """Keeps each artifact as pieces of at most 256 KiB."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def write(self, artifact_id: str, content: AsyncIterator[bytes], max_bytes: int) -> tuple[int, str]:
        """See ArtifactFiles; raises ResourceExhausted beyond `max_bytes`. What fails is taken back."""
        digest = hashlib.sha256()
        size = stored = 0
        rest = b""
        try:
            async for piece in content:
                size += len(piece)
                if size > max_bytes:
                    raise ResourceExhausted(
                        f"the artifact is larger than {max_bytes} bytes", reason="ARTIFACT_TOO_LARGE"
                    )
                digest.update(piece)
                rest += piece
                while len(rest) >= _PIECE:
                    await self._pool.fetch(_ADD, artifact_id, stored, rest[:_PIECE])
                    stored, rest = stored + _PIECE, rest[_PIECE:]
            if rest or not size:
                await self._pool.fetch(_ADD, artifact_id, stored, rest)
        except BaseException:
            await self.delete(artifact_id)
            raise
        return size, digest.hexdigest()

    async def read(self, artifact_id: str, offset: int, limit: int | None) -> AsyncIterator[bytes]:
        """See ArtifactFiles."""
        at, end = offset, None if limit is None else offset + limit
        while end is None or at < end:
            rows = await self._pool.fetch(_READ, artifact_id, at)
            if not rows:
                raise NotFound("there is no such artifact", reason="ARTIFACT_NOT_FOUND")
            start, content = rows[0]
            piece = content[at - start : None if end is None else end - start]
            if not piece:
                return
            at += len(piece)
            yield piece

    async def delete(self, artifact_id: str) -> None:
        """See ArtifactFiles."""
        await self._pool.fetch(_FORGET, artifact_id)
