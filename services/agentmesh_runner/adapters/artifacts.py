"""The artifact store over gRPC; bytes go straight to storage."""

from collections.abc import AsyncIterator
from typing import Any

import grpc

from agentmesh.api.storage.v1 import artifact_service_pb2 as pb
from agentmesh.api.storage.v1 import artifact_service_pb2_grpc as pb_grpc
from agentmesh.api.types.v1 import types_pb2
from agentmesh.kit import names, rpc_client
from agentmesh.kit.errors import InvalidRequest, from_rpc_error

_PIECE = 256 * 1024
_TIMEOUT_S = 300.0
_MAX_LOAD_BYTES = 256 * 1024 * 1024


class GrpcArtifacts:
    """Stores and loads with the attempt's token, from which storage takes tenant and task."""

    def __init__(self, channel: grpc.aio.Channel, token: str) -> None:
        self._stub: Any = pb_grpc.ArtifactServiceStub(channel)
        self._token = token

    async def store(self, name: str, media_type: str, data: bytes, *, token: str) -> types_pb2.Artifact:
        """See Artifacts."""

        async def pieces() -> AsyncIterator[pb.CreateArtifactRequest]:
            yield pb.CreateArtifactRequest(
                name=name, media_type=media_type, content=data[:_PIECE], size_bytes=len(data)
            )
            for start in range(_PIECE, len(data), _PIECE):
                yield pb.CreateArtifactRequest(content=data[start : start + _PIECE])

        try:
            answer = await self._stub.CreateArtifact(pieces(), timeout=_TIMEOUT_S, metadata=self._metadata(token))
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        artifact: types_pb2.Artifact = answer.artifact
        return artifact

    async def load(self, artifact_id: str, *, token: str) -> tuple[types_pb2.Artifact, bytes]:
        """See Artifacts; raises InvalidRequest beyond 256 MiB."""
        metadata = self._metadata(token)
        described = await rpc_client.unary(
            self._stub.GetArtifact,
            pb.GetArtifactRequest(artifact_id=artifact_id),
            timeout_s=_TIMEOUT_S,
            metadata=metadata,
        )
        artifact: types_pb2.Artifact = described.artifact
        if artifact.size_bytes > _MAX_LOAD_BYTES:
            raise InvalidRequest("the artifact is larger than an agent may load", reason="ARTIFACT_TOO_LARGE")
        request = pb.ReadArtifactRequest(artifact_id=artifact_id)
        async with rpc_client.streaming(
            self._stub.ReadArtifact, request, timeout_s=_TIMEOUT_S, metadata=metadata
        ) as call:
            return artifact, b"".join([piece.content async for piece in call])

    def _metadata(self, token: str) -> rpc_client.Metadata:
        return (*rpc_client.bearer(self._token), (names.TASK_TOKEN, token))
