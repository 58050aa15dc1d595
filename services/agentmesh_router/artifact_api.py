"""The public ArtifactService: passes bytes on to storage, with the caller's tenant."""

from collections.abc import AsyncIterator, Callable
from typing import Any

from agentmesh.api.artifact.v1 import artifact_service_pb2 as pb
from agentmesh.api.storage.v1 import artifact_service_pb2 as storage_pb
from agentmesh.kit import rpc_client
from agentmesh.kit.errors import InvalidRequest, NotFound
from agentmesh.kit.ids import is_id
from agentmesh.kit.rpc_server import Call

_MAX_UPLOAD_BYTES = 3 * 1024 * 1024
_TIMEOUT_S = 15.0
_TRANSFER_TIMEOUT_S = 3600.0


class ArtifactApi:
    """Answers clients."""

    def __init__(self, stub: Callable[[], Any], token: str) -> None:
        """`stub` returns the one of storage's ArtifactService to use now."""
        self._now = stub
        self._metadata = rpc_client.bearer(token)

    @property
    def _stub(self) -> Any:
        return self._now()

    async def upload_artifact(self, request: pb.UploadArtifactRequest, call: Call) -> pb.UploadArtifactResponse:
        """Store a small artifact."""
        if len(request.content) > _MAX_UPLOAD_BYTES:
            raise InvalidRequest(
                "a field is wrong", violations=[("content", "must be at most 3 MiB; stream more with CreateArtifact")]
            )

        async def one() -> AsyncIterator[storage_pb.CreateArtifactRequest]:
            yield _create(request, call.tenant)

        return pb.UploadArtifactResponse(artifact=await self._store(one(), call))

    async def create_artifact(
        self, requests: AsyncIterator[pb.CreateArtifactRequest], call: Call
    ) -> pb.CreateArtifactResponse:
        """Store an artifact that is streamed."""

        async def relayed() -> AsyncIterator[storage_pb.CreateArtifactRequest]:
            async for request in requests:
                yield _create(request, call.tenant)

        return pb.CreateArtifactResponse(artifact=await self._store(relayed(), call))

    async def read_artifact(
        self, request: pb.ReadArtifactRequest, call: Call
    ) -> AsyncIterator[pb.ReadArtifactResponse]:
        """Stream an artifact's bytes."""
        onward = storage_pb.ReadArtifactRequest(
            tenant=call.tenant,
            artifact_id=_known(request.artifact_id),
            offset=request.offset,
            limit=request.limit,
        )
        timeout_s = call.remaining_s(_TRANSFER_TIMEOUT_S)
        async with rpc_client.streaming(
            self._stub.ReadArtifact, onward, timeout_s=timeout_s, metadata=self._metadata
        ) as pieces:
            async for piece in pieces:
                yield pb.ReadArtifactResponse(content=piece.content)

    async def get_artifact(self, request: pb.GetArtifactRequest, call: Call) -> pb.GetArtifactResponse:
        """Describe an artifact."""
        onward = storage_pb.GetArtifactRequest(tenant=call.tenant, artifact_id=_known(request.artifact_id))
        answer = await self._unary(self._stub.GetArtifact, onward, call)
        return pb.GetArtifactResponse(artifact=answer.artifact)

    async def list_artifacts(self, request: pb.ListArtifactsRequest, call: Call) -> pb.ListArtifactsResponse:
        """Return a page of artifacts."""
        onward = storage_pb.ListArtifactsRequest(
            tenant=call.tenant,
            page_size=request.page_size,
            page_token=request.page_token,
            task_id=request.task_id,
        )
        answer = await self._unary(self._stub.ListArtifacts, onward, call)
        return pb.ListArtifactsResponse(artifacts=answer.artifacts, next_page_token=answer.next_page_token)

    async def delete_artifact(self, request: pb.DeleteArtifactRequest, call: Call) -> pb.DeleteArtifactResponse:
        """Remove an artifact."""
        onward = storage_pb.DeleteArtifactRequest(tenant=call.tenant, artifact_id=request.artifact_id)
        await self._unary(self._stub.DeleteArtifact, onward, call)
        return pb.DeleteArtifactResponse()

    async def _store(self, requests: AsyncIterator[storage_pb.CreateArtifactRequest], call: Call) -> Any:
        answer = await self._unary(self._stub.CreateArtifact, requests, call, _TRANSFER_TIMEOUT_S)
        return answer.artifact

    async def _unary(self, method: Any, request: Any, call: Call, at_most_s: float = _TIMEOUT_S) -> Any:
        timeout_s = call.remaining_s(at_most_s)
        return await rpc_client.unary(method, request, timeout_s=timeout_s, metadata=self._metadata)


def _create(request: Any, tenant: str) -> storage_pb.CreateArtifactRequest:
    return storage_pb.CreateArtifactRequest(
        tenant=tenant,
        name=request.name,
        media_type=request.media_type,
        content=request.content,
        size_bytes=len(request.content) if isinstance(request, pb.UploadArtifactRequest) else request.size_bytes,
    )


def _known(artifact_id: str) -> str:
    if not is_id(artifact_id):
        raise NotFound("there is no such artifact", reason="ARTIFACT_NOT_FOUND")
    return artifact_id
