"""The handlers of storage's ArtifactService: bytes in, bytes out, the tenant from whoever may name it."""

from collections.abc import AsyncIterator

from agentmesh.api.storage.v1 import artifact_service_pb2 as pb
from agentmesh.kit import names
from agentmesh.kit.clock import Clock
from agentmesh.kit.errors import InvalidRequest, PermissionDenied
from agentmesh.kit.ids import is_id, new_id
from agentmesh.kit.rpc_server import Call
from agentmesh_storage import wire
from agentmesh_storage.domain import Artifact
from agentmesh_storage.ports import ArtifactFiles, TaskStore

_MAX_NAME = 255
_DEFAULT_TYPE = "application/octet-stream"


class ArtifactApi:
    """Answers routers, which name the tenant, and runners, whose task token does.

    `max_bytes` bounds one artifact.
    """

    def __init__(self, store: TaskStore, files: ArtifactFiles, clock: Clock, *, max_bytes: int) -> None:
        self._store = store
        self._files = files
        self._clock = clock
        self._max_bytes = max_bytes

    async def create_artifact(
        self, requests: AsyncIterator[pb.CreateArtifactRequest], call: Call
    ) -> pb.CreateArtifactResponse:
        """Store what is streamed; a task's artifact stays hidden until its event is committed."""
        head = await anext(requests, None)
        if head is None:
            raise InvalidRequest("the stream is empty: send name and media_type first", reason="EMPTY_STREAM")
        _check_name(head.name)
        tenant = _tenant(call, head.tenant)
        task_id = call.identity.task.task_id if call.identity.task else head.task_id

        async def content() -> AsyncIterator[bytes]:
            yield head.content
            async for request in requests:
                yield request.content

        artifact_id = new_id()
        size, sha256 = await self._files.write(artifact_id, content(), self._max_bytes)
        if head.size_bytes and size != head.size_bytes:
            await self._files.delete(artifact_id)
            raise InvalidRequest("the stream is not as long as it said", reason="ARTIFACT_CUT")
        artifact = Artifact(
            id=artifact_id,
            tenant=tenant,
            task_id=task_id,
            name=head.name,
            media_type=head.media_type or _DEFAULT_TYPE,
            size_bytes=size,
            sha256=sha256,
            create_ms=self._clock.now_ms(),
            visible=not task_id,
        )
        await self._store.add_artifact(artifact)
        return pb.CreateArtifactResponse(artifact=wire.to_artifact(artifact))

    async def read_artifact(
        self, request: pb.ReadArtifactRequest, call: Call
    ) -> AsyncIterator[pb.ReadArtifactResponse]:
        """Stream bytes from an offset."""
        artifact = await self._find(request.artifact_id, _tenant(call, request.tenant))
        if not 0 <= request.offset <= artifact.size_bytes or request.limit < 0:
            raise InvalidRequest("a field is wrong", violations=[("offset", "is outside of the artifact")])
        async for piece in self._files.read(artifact.id, request.offset, request.limit or None):
            yield pb.ReadArtifactResponse(content=piece)

    async def get_artifact(self, request: pb.GetArtifactRequest, call: Call) -> pb.GetArtifactResponse:
        """Describe an artifact."""
        artifact = await self._find(request.artifact_id, _tenant(call, request.tenant))
        return pb.GetArtifactResponse(artifact=wire.to_artifact(artifact))

    async def list_artifacts(self, request: pb.ListArtifactsRequest, call: Call) -> pb.ListArtifactsResponse:
        """Return a page of artifacts."""
        size = wire.page_size_of(request.page_size)
        tenant = _tenant(call, request.tenant)
        found = await self._store.list_artifacts(tenant, request.task_id, size + 1, request.page_token)
        token = found[size - 1].id if len(found) > size else ""
        return pb.ListArtifactsResponse(artifacts=map(wire.to_artifact, found[:size]), next_page_token=token)

    async def delete_artifact(self, request: pb.DeleteArtifactRequest, call: Call) -> pb.DeleteArtifactResponse:
        """Remove an artifact; only routers may."""
        if call.identity.role != names.ROUTER:
            raise PermissionDenied("an attempt may not delete artifacts")
        if is_id(request.artifact_id) and await self._store.delete_artifact(request.tenant, request.artifact_id):
            await self._files.delete(request.artifact_id)
        return pb.DeleteArtifactResponse()

    async def _find(self, artifact_id: str, tenant: str) -> Artifact:
        return await self._store.get_artifact(tenant, artifact_id)


def _tenant(call: Call, named: str) -> str:
    if call.identity.task is not None:
        return call.identity.task.tenant
    if call.identity.role != names.ROUTER:
        raise PermissionDenied("this service of the mesh may not name a tenant")
    return named


def _check_name(name: str) -> None:
    if not 0 < len(name) <= _MAX_NAME or any(ord(c) < 32 for c in name):
        raise InvalidRequest(
            "a field is wrong",
            violations=[("name", "must be 1 to 255 characters without control characters")],
        )
