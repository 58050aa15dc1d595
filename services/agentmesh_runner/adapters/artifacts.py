"""The artifact store over gRPC; bytes go straight to storage."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import grpc

from agentmesh.api.storage.v1 import artifact_service_pb2 as pb
from agentmesh.api.storage.v1 import artifact_service_pb2_grpc as pb_grpc
from agentmesh.api.types.v1 import types_pb2
from agentmesh.kit import names, rpc_client
from agentmesh.kit.backoff import Backoff
from agentmesh.kit.errors import InvalidRequest, Unreachable

_PIECE = 256 * 1024
_TIMEOUT_S = 300.0
_MAX_LOAD_BYTES = 256 * 1024 * 1024
_RETRY_FOR_S = 10.0

T = TypeVar("T")


class GrpcArtifacts:
    """Stores and loads with the attempt's token, from which storage takes tenant and task.

    Give a channel to each storage: where one can't be reached, the next one is asked, again and again for some
    seconds. An upload that was cut off leaves bytes that nobody sees, which storage collects.
    """

    def __init__(self, channels: Sequence[grpc.aio.Channel], token: str) -> None:
        self._stubs: list[Any] = [pb_grpc.ArtifactServiceStub(channel) for channel in channels]
        self._at = 0
        self._token = token

    async def store(self, name: str, media_type: str, data: bytes, *, token: str) -> types_pb2.Artifact:
        """See Artifacts."""
        return await self._asked(lambda stub: self._store(stub, name, media_type, data, token))

    async def load(self, artifact_id: str, *, token: str) -> tuple[types_pb2.Artifact, bytes]:
        """See Artifacts; raises InvalidRequest beyond 256 MiB."""
        return await self._asked(lambda stub: self._load(stub, artifact_id, token))

    async def _asked(self, call: Callable[[Any], Awaitable[T]]) -> T:
        backoff = Backoff(_RETRY_FOR_S)
        while True:
            at = self._at
            try:
                return await call(self._stubs[at])
            except Unreachable as error:
                if self._at == at:
                    self._at = (at + 1) % len(self._stubs)
                await backoff.wait(error)

    async def _store(self, stub: Any, name: str, media_type: str, data: bytes, token: str) -> types_pb2.Artifact:

        async def pieces() -> AsyncIterator[pb.CreateArtifactRequest]:
            yield pb.CreateArtifactRequest(
                name=name, media_type=media_type, content=data[:_PIECE], size_bytes=len(data)
            )
            for start in range(_PIECE, len(data), _PIECE):
                yield pb.CreateArtifactRequest(content=data[start : start + _PIECE])

        answer = await rpc_client.unary(
            stub.CreateArtifact, pieces(), timeout_s=_TIMEOUT_S, metadata=self._metadata(token)
        )
        artifact: types_pb2.Artifact = answer.artifact
        return artifact

    async def _load(self, stub: Any, artifact_id: str, token: str) -> tuple[types_pb2.Artifact, bytes]:
        metadata = self._metadata(token)
        described = await rpc_client.unary(
            stub.GetArtifact,
            pb.GetArtifactRequest(artifact_id=artifact_id),
            timeout_s=_TIMEOUT_S,
            metadata=metadata,
        )
        artifact: types_pb2.Artifact = described.artifact
        if artifact.size_bytes > _MAX_LOAD_BYTES:
            raise InvalidRequest("the artifact is larger than an agent may load", reason="ARTIFACT_TOO_LARGE")
        request = pb.ReadArtifactRequest(artifact_id=artifact_id)
        async with rpc_client.streaming(stub.ReadArtifact, request, timeout_s=_TIMEOUT_S, metadata=metadata) as call:
            return artifact, b"".join([piece.content async for piece in call])

    def _metadata(self, token: str) -> rpc_client.Metadata:
        return (*rpc_client.bearer(self._token), (names.TASK_TOKEN, token))
